"""Masks of the previous stage: one for each foreground label that it predicts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16

from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry, mark_outside
from autoseg.preprocessing.resample import resample_label_map
from autoseg.stages.previous_input import Array, PreviousStageInput, StagePrediction
from autoseg.stages.staged_case import StagedCase


@dataclass(frozen=True, slots=True)
class MaskInput(PreviousStageInput):
    """The map is a label map; background, and -1 outside the nonzero region, are in no mask."""

    def convert_for_training(
        self, prediction: StagePrediction, target: CaseGeometry
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Interpolates logits from one grid to the other, as nnU-Net does for training."""
        return prediction.restore_on(target.resampled_shape_voxels)

    def convert_for_prediction(
        self, prediction: StagePrediction, case: StagedCase, *, resampling: ResamplingPlan
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        """Finishes the label map on the grid of the file and preprocesses it like one for training, as in nnU-Net."""
        return resample_like(case, prediction.restore_label_map(prediction.geometry), resampling=resampling)

    def list_channels(self, stage_map: Array) -> Sequence[Array]:
        """Lists one mask for each foreground label, in the order of the labels."""
        return [stage_map == label for label in self.labels.foreground_labels]


def resample_like(
    case: StagedCase, label_map: Int16[np.ndarray, "z y x"], *, resampling: ResamplingPlan
) -> Int16[np.ndarray, "new_z new_y new_x"]:
    """Brings a label map from the grid of the file to that of the preprocessed image, like one for training.

    Args:
        case: The image, preprocessed for a configuration with a previous stage.
        label_map: Internal labels on the grid of the file.
        resampling: Resampling of that configuration.
    """
    assert case.nonzero_mask is not None, "this case was not preprocessed for several stages"
    geometry = case.geometry
    cropped = geometry.reorientation.apply(label_map)[geometry.crop_slices]
    return resample_label_map(
        mark_outside(cropped, case.nonzero_mask),
        shape=geometry.resampled_shape_voxels,
        spacing_mm=geometry.cropped_spacing_mm,
        target_spacing_mm=geometry.target_spacing_mm,
        plan=resampling,
    )
