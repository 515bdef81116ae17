"""An input from a previous stage: where it predicts any foreground, as one channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int16

from autoseg.labels import LabelScheme
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.plan.stages import PreviousStagePlan
from autoseg.preprocessing.case import CaseGeometry
from autoseg.stages.masks import MaskInput
from autoseg.stages.previous_input import Array, PreviousStageInput, StagePrediction
from autoseg.stages.staged_case import StagedCase


class ForegroundOfPreviousStage(PreviousStagePlan):
    input: Literal["foreground"] = "foreground"

    def count_channels(self, labels: LabelScheme) -> int:
        del labels
        return 1


@dataclass(frozen=True, slots=True)
class ForegroundInput(PreviousStageInput):
    """Its map is that of the masks."""

    def convert_for_training(
        self, prediction: StagePrediction, target: CaseGeometry
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        return MaskInput(self.plan, self.labels).convert_for_training(prediction, target)

    def convert_for_prediction(
        self, prediction: StagePrediction, case: StagedCase, *, resampling: ResamplingPlan
    ) -> Int16[np.ndarray, "new_z new_y new_x"]:
        return MaskInput(self.plan, self.labels).convert_for_prediction(prediction, case, resampling=resampling)

    def list_channels(self, stage_map: Array) -> Sequence[Array]:
        return [stage_map > 0]
