"""Boundaries of the previous stage's prediction, around which a network corrects one class at a time.

Boundary patch refinement (Tang et al. 2021, arXiv:2104.05239), in slices and volumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int16, Int32
from numpy.typing import NDArray

from autoseg.labels import LabelScheme
from autoseg.nonzero_region import compute_bounding_box
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import OUTSIDE_LABEL, CaseGeometry
from autoseg.preprocessing.class_locations import ClassLocations, draw_locations
from autoseg.preprocessing.stored_array import LazyArray
from autoseg.stages.masks import resample_like
from autoseg.stages.previous_input import Array, PreviousStageInput, StagePrediction
from autoseg.stages.staged_case import StagedCase

FILTER_EXTENT: Final = 3  # of the box of voxels that a boundary voxel finds neither empty nor full (the paper)
SEED: Final = 1234
CLASS_MARK: Final = ":class "  # no name of a file holds a colon
IGNORED: Final = 2  # beside 0 and 1, in the label map of one class
MOST_BOUNDARIES: Final = 2048
"""Boundaries that a process keeps, of 0.1 MB or more each; others are found again (guess)."""


@dataclass(frozen=True, slots=True)
class BoundaryInput(PreviousStageInput):
    """The map is a label map, and the only channel of the network. In training it is that of one class: 0 and 1."""

    def convert_for_training(
        self, prediction: StagePrediction, target: CaseGeometry
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Interpolates logits from one grid to the other, as for masks."""
        return prediction.restore_on(target.resampled_shape_voxels)

    def convert_for_prediction(
        self, prediction: StagePrediction, case: StagedCase, *, resampling: ResamplingPlan
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Finishes the label map on the grid of the file and preprocesses it like one for training."""
        return resample_like(case, prediction.restore_label_map(prediction.geometry), resampling=resampling)

    def list_channels(self, stage_map: Array) -> Sequence[Array]:
        """Lists the map itself; outside the image it is background."""
        return [stage_map.clip(0)]

    def list_parts(self, name: str, stage_map: LazyArray) -> tuple[str, ...]:
        """Lists the classes of a case that have a boundary."""
        label_map = stage_map[:]
        classes = enumerate(self.labels.class_labels)
        return tuple(
            f"{name}{CLASS_MARK}{index}"
            for index, members in classes
            if has_boundary(np.isin(label_map, members), axes=self.filtered_axes)
        )

    @property
    def filtered_axes(self) -> int:
        """Number of the last axes along which a boundary is found: those of the network."""
        return len(self.spacing_mm)

    def open_part(self, case: CachedCase, stage_map: LazyArray, part: str, *, key: tuple[Path, str]) -> CachedCase:
        """Returns a case as it is trained on for one class, with the boundary of the class as its only locations.

        With an ignore label they are its annotated voxels, if there are any: a patch without any teaches nothing.

        Args:
            case: The whole case.
            stage_map: Label map of the previous stage.
            part: A name of `list_parts`.
            key: Folder of the map and digest of the weights that made it, for which a boundary is found once.
        """
        members = self.labels.class_labels[int(part.partition(CLASS_MARK)[2])]
        reference = ClassArray(array=case.label_map, members=members, ignored=self.labels.ignore_label)
        mask = ClassArray(array=stage_map, members=members, ignored=None)
        boundary = _Boundary(key=(*key, part), mask=mask, reference=reference, axes=self.filtered_axes)
        found = _find_locations(boundary)
        boundary.mask = boundary.reference = None
        locations = ClassLocations(coordinates=found, class_ranges=((0, len(found)),), annotated_range=None)
        return replace(case, name=part, label_map=reference, further_maps=(mask,), locations=locations)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassArray:
    """A label map in which one class is 1 and what is ignored 2; slicing reads from the map what it needs.

    Attributes:
        members: Labels of the class.
        ignored: The ignore label; None without one.
    """

    array: LazyArray
    members: tuple[int, ...]
    ignored: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the map."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return np.dtype(np.int16)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        labels = self.array[key]
        found = np.isin(labels, self.members).astype(np.int16)
        found[labels == OUTSIDE_LABEL] = OUTSIDE_LABEL
        if self.ignored is not None:
            found[labels == self.ignored] = IGNORED
        return found


def find_boundary(mask: Bool[np.ndarray, "z y x"], *, axes: int) -> Bool[np.ndarray, "z y x"]:
    """Finds the voxels around which a box of three voxels along each of the last axes is neither empty nor full.

    Beyond the image its outermost voxels are repeated, so that its border is no boundary.
    """
    from scipy import ndimage  # imported here because it takes 0.3 s

    boundary = np.zeros(mask.shape, bool)
    if not mask.any():
        return boundary
    extents = (1,) * (3 - axes) + (FILTER_EXTENT,) * axes
    box = tuple(slice(max(0, start - 1), stop + 1) for start, stop in compute_bounding_box(mask))
    highest = ndimage.maximum_filter(mask[box], size=extents, mode="nearest")
    boundary[box] = highest != ndimage.minimum_filter(mask[box], size=extents, mode="nearest")
    return boundary


def has_boundary(mask: Bool[np.ndarray, "z y x"], *, axes: int) -> bool:
    """Returns whether `find_boundary` finds any voxel, in less time."""
    last = (-3, -2, -1)[-axes:]
    return bool((mask.any(axis=last) & ~mask.all(axis=last)).any())


def select_centres(
    boundary: Bool[np.ndarray, "z y x"], patch_voxels: tuple[int, int, int], *, overlap_limit: float
) -> Int32[np.ndarray, "centre 3"]:
    """Selects boundary voxels in their order, but those whose patch overlaps an earlier one by more than the limit.

    The overlap of two patches is their intersection as a fraction of their union.
    """
    places = np.argwhere(boundary).astype(np.int32)
    if overlap_limit >= 1:
        return places
    is_apart = _find_apart(patch_voxels, overlap_limit)
    later, *around = (extent - 1 for extent in patch_voxels)  # along the first axis, earlier voxels have been seen
    waiting = np.pad(boundary, ((0, later), *((extent, extent) for extent in around)))
    selected = []
    for index, (z, y, x) in enumerate(places):
        if waiting[z, y + around[0], x + around[1]]:
            selected.append(index)
            near = tuple(slice(start, start + size) for start, size in zip((z, y, x), is_apart.shape, strict=True))
            waiting[near] &= is_apart
    return places[selected]


def _find_apart(patch_voxels: tuple[int, int, int], overlap_limit: float) -> Bool[np.ndarray, "z y x"]:
    """Finds the moves by which a patch overlaps its old place by no more than the limit, from 0 along the first axis
    and from all but one voxel below 0 along the others."""
    later, *around = (np.arange(1 - extent, extent) for extent in patch_voxels)
    moves = np.stack(np.meshgrid(later[patch_voxels[0] - 1 :], *around, indexing="ij"), axis=-1)
    shared = (1 - np.abs(moves) / np.asarray(patch_voxels)).prod(axis=-1)
    return np.asarray(shared <= overlap_limit * (2 - shared))


@dataclass(slots=True, kw_only=True, eq=False)
class _Boundary:
    """A boundary to find once in a process; two of one key are equal.

    Attributes:
        mask: The class; None once its boundary is found, since the file of a map is open while anything refers to it.
        reference: The class as it should be, which says what is ignored; None as for the mask.
    """

    key: tuple[Path, str, str]
    mask: ClassArray | None
    reference: ClassArray | None
    axes: int

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Boundary) and self.key == other.key


@lru_cache(maxsize=MOST_BOUNDARIES)
def _find_locations(boundary: _Boundary) -> Int32[np.ndarray, "location 3"]:
    assert boundary.mask is not None, "it was not found before"
    assert boundary.reference is not None, "it was not found before"
    found = find_boundary(boundary.mask[:] == 1, axes=boundary.axes)
    if boundary.reference.ignored is not None:
        annotated = found & (boundary.reference[:] != IGNORED)
        found = annotated if annotated.any() else found
    return draw_locations(found, np.random.default_rng(SEED))


def build_class_masks(label_map: Int16[np.ndarray, "z y x"], labels: LabelScheme) -> list[Bool[np.ndarray, "z y x"]]:
    """Builds the mask of every class, in the order of `LabelScheme.class_labels`."""
    return [np.isin(label_map, members) for members in labels.class_labels]
