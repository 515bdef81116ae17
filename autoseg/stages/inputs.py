"""The table of inputs from a previous stage, by their names in a plan."""

from typing import Final

import numpy as np
from jaxtyping import Float32

from autoseg.nonzero_region import Box
from autoseg.plan.document import Plan
from autoseg.stages.boundary import BoundaryInput
from autoseg.stages.box import BoxInput
from autoseg.stages.clicks import ClickInput
from autoseg.stages.found_boxes import list_boxes
from autoseg.stages.masks import MaskInput
from autoseg.stages.previous_input import PreviousStageInput, StagePrediction
from autoseg.stages.staged_case import StagedCase

PREVIOUS_STAGE_INPUTS: Final[dict[str, type[PreviousStageInput]]] = {
    "masks": MaskInput,
    "clicks": ClickInput,
    "box": BoxInput,
    "boundary": BoundaryInput,
}


def build_previous_input(plan: Plan, configuration: str) -> PreviousStageInput | None:
    """Builds the input from the previous stage of a configuration; None if it has none."""
    chosen = plan.configurations[configuration]
    part = chosen.previous_stage
    return None if part is None else PREVIOUS_STAGE_INPUTS[part.input](part, plan.labels, chosen.spacing_mm)


def apply_prediction(
    case: StagedCase, prediction: StagePrediction, plan: Plan, configuration: str
) -> tuple[Float32[np.ndarray, "channel z y x"], Box | None]:
    """Appends the channels from the previous stage to the image of a case that is to be segmented.

    Returns the image, and the box in which it is to be predicted; None for all of it. The case keeps what was found.

    Args:
        case: Preprocessed for the configuration.
        prediction: Prediction of the previous stage for this case.
        plan: The plan of both configurations.
        configuration: The configuration that has the previous stage.
    """
    previous = build_previous_input(plan, configuration)
    assert previous is not None, "there is no previous stage"
    resampling = plan.configurations[configuration].resampling
    stage_map = previous.convert_for_prediction(prediction, case, resampling=resampling)
    fallback = previous.explain_fallback(stage_map)
    if fallback is not None:
        case.warn(f"{configuration}: {fallback}")
    box = previous.find_box(stage_map)
    if isinstance(previous, BoxInput):
        case.boxes[:] = list_boxes(prediction, box, case.geometry, plan=plan, configuration=configuration)
    return previous.append_to(case.image, stage_map), box
