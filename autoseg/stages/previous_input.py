"""The contract between a stage and the previous one: how predictions become input channels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Float32, Int16, Shaped

from autoseg.geometry import Grid, IntTriple
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import Box
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.plan.stages import PreviousStagePlan
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.stored_array import LazyArray
from autoseg.stages.staged_case import StagedCase

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePrediction:
    """Prediction of the previous stage for a case.

    Attributes:
        geometry: Geometry of the case, preprocessed for the previous stage.
        restore_label_map: Interpolates the logits back along a geometry; returns internal labels on its grid.
        compute_scores: Computes the probabilities of the classes in a part of its grid; None where they are not known.
    """

    geometry: CaseGeometry
    restore_label_map: Callable[[CaseGeometry], Int16[np.ndarray, "z y x"]]
    compute_scores: Callable[[tuple[slice, slice, slice]], Float32[np.ndarray, "class z y x"]] | None = None

    def restore_on(self, shape_voxels: IntTriple) -> Int16[np.ndarray, "z y x"]:
        """Interpolates the logits to a grid of any shape in plan axes that covers the same space; returns labels."""
        spacing_mm = self.geometry.target_spacing_mm
        z, y, x = shape_voxels
        between = CaseGeometry(
            grid=Grid(shape_voxels=shape_voxels, spacing_mm=spacing_mm),
            orientation=None,
            axis_permutation=(0, 1, 2),
            crop_box=((0, z), (0, y), (0, x)),
            cropped_shape_voxels=shape_voxels,
            resampled_shape_voxels=self.geometry.resampled_shape_voxels,
            cropped_spacing_mm=spacing_mm,  # the previous stage's spacing alone decides about separate resampling
            target_spacing_mm=spacing_mm,
        )
        return self.restore_label_map(between)


@dataclass(frozen=True, slots=True)
class PreviousStageInput(ABC):
    """Input from predictions of the previous stage.

    Each prediction becomes a map of integers on the grid of the case's preprocessed image. The maps of training cases
    are stored; a map is cut, rotated, scaled and mirrored with the image like a label map, and is turned into channels
    at last. Outside the image a map is 0 or -1, so both must stand for the absence of anything. An input without
    channels may keep other integers in its map, which then stays as it is.

    Attributes:
        plan: The plan of this input.
        labels: Labels of the plan.
        spacing_mm: Spacing of the configuration that gets the input; two values if its network sees slices.
    """

    plan: PreviousStagePlan
    labels: LabelScheme
    spacing_mm: tuple[float, ...] = ()

    @abstractmethod
    def convert_for_training(
        self, prediction: StagePrediction, target: CaseGeometry
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Returns the map of a training case.

        Args:
            prediction: Out of fold.
            target: Geometry of the case, preprocessed for the configuration that gets the map.
        """

    @abstractmethod
    def convert_for_prediction(
        self, prediction: StagePrediction, case: StagedCase, *, resampling: ResamplingPlan
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Returns the map of a case that is to be segmented.

        Args:
            prediction: Prediction of the previous stage.
            case: Preprocessed for the configuration that gets the map.
            resampling: Resampling of that configuration.
        """

    @abstractmethod
    def list_channels(self, stage_map: Array) -> Sequence[Array]:
        """Splits a map, or a batch of maps, into channels: numpy arrays or tensors, like the map, and of its shape."""

    def list_image_channels(self, image: Array, stage_map: Array) -> Sequence[Array]:
        """Splits a map into channels that may depend on the image, too.

        Args:
            image: (channel, space), or a batch of it on a device (batch, channel, space).
            stage_map: The map of that image, or those of the batch.
        """
        del image
        return self.list_channels(stage_map)

    def append_to(
        self, image: Float32[np.ndarray, " channel *space"], stage_map: Int16[np.ndarray, "..."]
    ) -> Float32[np.ndarray, " channel_and_extra *space"]:
        """Appends the channels of a map, if it has any, to those of the image."""
        if not self.plan.has_channels:
            return image
        return append_channels(image, np.stack(self.list_image_channels(image, stage_map)))

    def find_box(self, stage_map: Int16[np.ndarray, "*space"]) -> Box | None:
        """Finds the box of the image outside which all is background; None, the whole image, by default."""
        return None

    def explain_fallback(self, stage_map: Int16[np.ndarray, "*space"]) -> str | None:
        """Explains what is taken in place of an input that a map cannot give; None by default: each can."""
        return None

    def add_to_case(self, case: CachedCase, stage_map: LazyArray) -> CachedCase:
        """Returns the case that is trained on; by default the map is one that is cut with the image."""
        return replace(case, further_maps=(stage_map,))


def append_channels(
    image: Float32[np.ndarray, " channel *space"], channels: Shaped[np.ndarray, " extra *space"]
) -> Float32[np.ndarray, " channel_and_extra *space"]:
    """Appends channels to the image; those of masks become 0 and 1."""
    return np.concatenate([image, channels], dtype=np.float32)
