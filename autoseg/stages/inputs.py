"""The kinds of input from a previous stage, by the name that a plan gives them."""

from typing import Final

from autoseg.plan import Plan
from autoseg.stages.masks import MaskInput
from autoseg.stages.previous_input import PreviousStageInput

PREVIOUS_STAGE_INPUTS: Final[dict[str, type[PreviousStageInput]]] = {"masks": MaskInput}


def build_previous_input(plan: Plan, configuration: str) -> PreviousStageInput | None:
    """What a configuration gets from its previous stage; None if it has none."""
    part = plan.configurations[configuration].previous_stage
    return None if part is None else PREVIOUS_STAGE_INPUTS[part.input](part, plan.labels)
