"""Preprocesses an image for a configuration and for all stages before it."""

import numpy as np
from jaxtyping import Float32

from autoseg.geometry import Grid
from autoseg.plan.document import Plan
from autoseg.preprocessing.case import PreparedCase
from autoseg.preprocessing.pipeline import prepare_case, preprocess_prepared_case
from autoseg.stages.staged_case import StagedCase


def preprocess_for_stages(
    image: Float32[np.ndarray, "channel z y x"], grid: Grid, plan: Plan, configuration: str
) -> StagedCase:
    """Preprocesses an image for a configuration and all stages before it; crops and normalizes it once.

    Raises:
        PlanError: The image does not fit the plan.
    """
    stages = plan.list_stages(configuration)
    prepared = prepare_case(image, None, grid, plan, keeps_mask=len(stages) > 1)
    case = StagedCase(preprocessed=preprocess_prepared_case(prepared, plan, stages[0]))
    for name in stages[1:]:
        case = _add_stage(case, prepared, plan, name)
    return case


def _add_stage(previous: StagedCase, prepared: PreparedCase, plan: Plan, configuration: str) -> StagedCase:
    return StagedCase(
        preprocessed=preprocess_prepared_case(prepared, plan, configuration),
        previous=previous,
        nonzero_mask=prepared.nonzero_mask,
    )
