"""Masks of the previous stage, and clicks with which a user corrects them.

In a map of the previous stage a click is a voxel with a value of its own for each label, which no label map has. So
clicks are cut, rotated and mirrored with the map, and become channels with it: of each label the masks get the clicks,
and a map of their own shows the geodesic distance to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int16

from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.plan.stages import ClicksOfPreviousStage
from autoseg.preprocessing.case import CaseGeometry
from autoseg.stages.geodesic import compute_proximity
from autoseg.stages.masks import MaskInput
from autoseg.stages.previous_input import Array, PreviousStageInput, StagePrediction
from autoseg.stages.staged_case import StagedCase

if TYPE_CHECKING:
    from torch import Tensor


def find_click_offset(foreground_labels: Sequence[int]) -> int:
    """Returns the number that, added to a label, marks a click of that label in a map.

    It is larger than all labels, also than the label that is ignored.
    """
    return len(foreground_labels) + 2


@dataclass(frozen=True, slots=True)
class ClickInput(PreviousStageInput):
    """The map is a label map in which clicks are marked; without clicks it is that of `MaskInput`."""

    plan: ClicksOfPreviousStage

    @property
    def offset(self) -> int:
        """The number that marks a click when it is added to a label."""
        return find_click_offset(self.labels.foreground_labels)

    @property
    def click_labels(self) -> tuple[int, ...]:
        """The labels that can be clicked: background and all foreground labels."""
        return (0, *self.labels.foreground_labels)

    def convert_for_training(
        self, prediction: StagePrediction, target: CaseGeometry
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Interpolates logits as `MaskInput` does; clicks are simulated when patches are made."""
        return MaskInput(self.plan, self.labels).convert_for_training(prediction, target)

    def convert_for_prediction(
        self, prediction: StagePrediction, case: StagedCase, *, resampling: ResamplingPlan
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Brings the label map to the grid of the network as `MaskInput` does; nobody has clicked."""
        return MaskInput(self.plan, self.labels).convert_for_prediction(prediction, case, resampling=resampling)

    def list_channels(self, stage_map: Array) -> Sequence[Array]:
        """Lists one mask for each foreground label, which the clicks of the label belong to."""
        return [(stage_map == label) | (stage_map == label + self.offset) for label in self.labels.foreground_labels]

    def list_image_channels(self, image: Array, stage_map: Array) -> Sequence[Array]:
        """Lists the masks, then one map of the proximity to clicks for each label, background first.

        In a batch the maps are computed on the CPU, so that the thread that makes the batch waits for the device.
        """
        is_batch = not isinstance(stage_map, np.ndarray)
        compute: Any = self._list_batch_proximities if is_batch else self._list_proximities
        return [*self.list_channels(stage_map), *compute(image, stage_map)]

    def _list_batch_proximities(self, image: "Tensor", stage_map: "Tensor") -> "list[Tensor]":
        import torch

        images, maps = image.float().cpu().numpy(), stage_map.cpu().numpy()
        samples = [self._list_proximities(*pair) for pair in zip(images, maps, strict=True)]
        return [torch.from_numpy(np.stack(channel)).to(image.device) for channel in zip(*samples, strict=True)]

    def _list_proximities(
        self, image: Float32[np.ndarray, " channel *space"], stage_map: Int16[np.ndarray, "*space"]
    ) -> list[Float32[np.ndarray, "*space"]]:
        return [self._compute_proximity(image, stage_map == label + self.offset) for label in self.click_labels]

    def _compute_proximity(self, image: np.ndarray, clicks: np.ndarray) -> np.ndarray:
        """Computes the proximity within slices, where the network sees slices."""
        if not clicks.any():
            return np.zeros(clicks.shape, np.float32)
        if clicks.ndim > len(self.spacing_mm):
            slices = range(len(clicks))
            return np.stack([self._compute_proximity(image[:, index], clicks[index]) for index in slices])
        return compute_proximity(
            image, clicks, spacing_mm=self.spacing_mm, edge_mm=self.plan.edge_mm, reach_mm=self.plan.reach_mm
        )

    def mark_clicks(
        self,
        stage_map: Int16[np.ndarray, "z y x"],
        clicks: Sequence[tuple[tuple[int, int, int], int]],
        case: StagedCase,
    ) -> None:
        """Marks clicks in a map; one outside the crop is left out, and of two in one voxel the last one counts.

        Args:
            stage_map: Map on the grid of the network, which is changed.
            clicks: Voxels (z, y, x) of the image file with their labels.
            case: The preprocessed image.
        """
        locate = build_locator(case.geometry)
        for voxel, label in clicks:
            place = locate(voxel)
            if place is not None:
                stage_map[place] = label + self.offset


def build_locator(geometry: CaseGeometry) -> Callable[[tuple[int, int, int]], tuple[int, int, int] | None]:
    """Builds the function from voxels of the file to those of the preprocessed image; None outside the crop."""
    axes, shape = geometry.reorientation, geometry.uncropped_shape_voxels
    extents = geometry.resampled_shape_voxels

    def locate(voxel: tuple[int, int, int]) -> tuple[int, int, int] | None:
        turned = [voxel[axis] for axis in axes.permutation]
        turned = [
            extent - 1 - place if flipped else place
            for place, extent, flipped in zip(turned, shape, axes.is_flipped, strict=True)
        ]
        if not all(start <= place < stop for place, (start, stop) in zip(turned, geometry.crop_box, strict=True)):
            return None
        z, y, x = (
            int((place - start + 0.5) * extent / (stop - start))
            for place, (start, stop), extent in zip(turned, geometry.crop_box, extents, strict=True)
        )
        return z, y, x

    return locate
