"""The box of the previous stage: the part of an image in which the network of this stage predicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int16
from numpy.typing import NDArray

from autoseg.nonzero_region import Box, slice_box
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.plan.stages import BoxOfPreviousStage
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.preprocessing.stored_array import LazyArray
from autoseg.stages.box_components import BoxComponents, count_margin, find_components
from autoseg.stages.previous_input import Array, PreviousStageInput, StagePrediction
from autoseg.stages.staged_case import StagedCase


@dataclass(frozen=True, slots=True)
class BoxInput(PreviousStageInput):
    """The map holds the first and the end voxel of the box along each axis, shape (3, 2, 1); all 0 if there is no
    foreground."""

    def convert_for_training(
        self, prediction: StagePrediction, target: CaseGeometry
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Finds the box around the foreground on the grid of a case, and widens it by the margin."""
        assert isinstance(self.plan, BoxOfPreviousStage)
        widened = find_moved_components(prediction, target).widen(
            self.plan.box_margin_mm,
            spacing_mm=target.target_spacing_mm,
            shape_voxels=target.resampled_shape_voxels,
        )
        return store_box(widened.join(self.plan.minimum_mm3))

    def convert_for_prediction(
        self, prediction: StagePrediction, case: StagedCase, *, resampling: ResamplingPlan
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Finds the box as for a training case."""
        return self.convert_for_training(prediction, case.geometry)

    def list_channels(self, stage_map: Array) -> Sequence[Array]:
        """Lists none: the network gets the image alone."""
        return []

    def find_box(self, stage_map: Int16[np.ndarray, "*space"]) -> Box | None:
        """Returns the box; None, the whole image, if there is no foreground."""
        z, y, x = np.asarray(stage_map)[:, :, 0].tolist()
        return None if z[1] == 0 else ((z[0], z[1]), (y[0], y[1]), (x[0], x[1]))

    def explain_fallback(self, stage_map: Int16[np.ndarray, "*space"]) -> str | None:
        """Explains why the whole image is taken; None if it is not."""
        if self.find_box(stage_map) is not None:
            return None
        return f"{self.plan.configuration} predicts no foreground, so there is no box and the whole image is taken"

    def add_to_case(self, case: CachedCase, stage_map: LazyArray) -> CachedCase:
        """Cuts a training case to the box and what surrounds it, which a further margin is a part of."""
        assert isinstance(self.plan, BoxOfPreviousStage)
        found = self.find_box(stage_map[:])
        if found is None:
            return case
        spacing_mm = case.geometry.target_spacing_mm
        planned, whole = (count_margin(mm, spacing_mm) for mm in (self.plan.margin_mm, self.plan.box_margin_mm))
        margins = np.maximum(self.plan.training_margin_voxels - (whole - planned), 0).tolist()
        axes = zip(found, margins, case.image.shape[-3:], strict=True)
        z, y, x = ((max(0, first - margin), min(extent, end + margin)) for (first, end), margin, extent in axes)
        return crop_case(case, (z, y, x))


def find_moved_components(prediction: StagePrediction, target: CaseGeometry) -> BoxComponents:
    """Finds the components of the foreground on the grid of the previous stage, and their boxes on that of a case."""
    geometry = prediction.geometry
    shape_voxels = geometry.resampled_shape_voxels
    foreground = prediction.restore_on(shape_voxels) > 0
    found = find_components(foreground, voxel_mm3=math.prod(geometry.target_spacing_mm))
    return found.move(shape_voxels, target.resampled_shape_voxels)


def store_box(box: Box | None) -> Int16[np.ndarray, "3 2 1"]:
    """Returns the map that holds a box; None is the whole image."""
    corners = np.zeros((3, 2, 1), np.int16)
    if box is not None:
        corners[:, :, 0] = box
    return corners


def crop_case(case: CachedCase, box: Box) -> CachedCase:
    """Returns a case that consists of the part in a box; its arrays are read only where they are sliced."""
    return replace(
        case,
        image=ArrayPart(array=case.image, box=box),
        label_map=ArrayPart(array=case.label_map, box=box),
        locations=_crop_locations(case.locations, box),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPart:
    """A box of the last three axes of an array; slicing reads from the array what it needs.

    Attributes:
        array: The whole array.
        box: The box in it.
    """

    array: LazyArray
    box: Box

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the part."""
        return (*self.array.shape[:-3], *(end - first for first, end in self.box))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.array.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = key if isinstance(key, tuple) else (key,)
        keys = (*keys, *(slice(None),) * (len(self.shape) - len(keys)))
        leading, inner = keys[:-3], keys[-3:]
        shifted = (
            slice(*(place + first for place in part.indices(end - first)[:2]))
            if isinstance(part, slice)
            else part + first
            for part, (first, end) in zip(inner, self.box, strict=True)
        )
        return np.asarray(self.array[(*leading, *shifted)])


def _crop_locations(locations: ClassLocations, box: Box) -> ClassLocations:
    coordinates = np.asarray(locations.coordinates)
    first, end = np.asarray(box, dtype=np.int32).T
    is_inside = ((coordinates >= first) & (coordinates < end)).all(axis=1)
    kept = np.concatenate([[0], np.cumsum(is_inside)])

    def move(rows: tuple[int, int]) -> tuple[int, int]:
        return int(kept[rows[0]]), int(kept[rows[1]])

    annotated = locations.annotated_range
    return ClassLocations(
        coordinates=coordinates[is_inside] - first,
        class_ranges=tuple(map(move, locations.class_ranges)),
        annotated_range=None if annotated is None else move(annotated),
    )


def covers_foreground(box: Box | None, label_map: Int16[np.ndarray, "z y x"], labels: Sequence[int]) -> bool:
    """Returns whether all voxels of some labels lie in a box; None is the whole image."""
    if box is None:
        return True
    outside = np.isin(label_map, labels)
    outside[slice_box(box)] = False
    return not outside.any()
