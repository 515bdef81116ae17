"""The table of inputs from a previous stage, by their names in a plan."""

from typing import Final

import numpy as np
from jaxtyping import Float32

from autoseg.plan.document import Plan
from autoseg.stages.clicks import ClickInput
from autoseg.stages.masks import MaskInput
from autoseg.stages.previous_input import PreviousStageInput, StagePrediction
from autoseg.stages.staged_case import StagedCase

PREVIOUS_STAGE_INPUTS: Final[dict[str, type[PreviousStageInput]]] = {
    "masks": MaskInput,
    "clicks": ClickInput,
}


def build_previous_input(plan: Plan, configuration: str) -> PreviousStageInput | None:
    """Builds the input from the previous stage of a configuration; None if it has none."""
    chosen = plan.configurations[configuration]
    part = chosen.previous_stage
    return None if part is None else PREVIOUS_STAGE_INPUTS[part.input](part, plan.labels, chosen.spacing_mm)


def append_prediction(
    case: StagedCase, prediction: StagePrediction, plan: Plan, configuration: str
) -> Float32[np.ndarray, "channel z y x"]:
    """Appends the channels from the previous stage to the image of a case that is to be segmented.

    Args:
        case: Preprocessed for the configuration.
        prediction: Prediction of the previous stage for this case.
        plan: The plan of both configurations.
        configuration: The configuration that has the previous stage.
    """
    previous = build_previous_input(plan, configuration)
    assert previous is not None, "there is no previous stage"
    resampling = plan.configurations[configuration].resampling
    return previous.append_to(case.image, previous.convert_for_prediction(prediction, case, resampling=resampling))
