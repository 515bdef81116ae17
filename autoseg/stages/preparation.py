"""Preprocesses an image for a configuration and for all stages before it."""

import logging
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from autoseg.geometry import Grid
from autoseg.plan.document import Plan
from autoseg.preprocessing.pipeline import prepare_case, preprocess_prepared_case
from autoseg.stages.staged_case import StagedCase

logger = logging.getLogger(__name__)


def preprocess_for_stages(
    image: Float32[np.ndarray, "channel z y x"],
    grid: Grid,
    plan: Plan,
    configuration: str,
    *,
    warn: Callable[[str], None] = logger.warning,
) -> StagedCase:
    """Preprocesses an image for a configuration and all stages before it; crops and normalizes it once.

    `warn` will receive what is odd about the predictions of stages.

    Raises:
        PlanError: The image does not fit the plan.
    """
    stages = plan.list_stages(configuration)
    prepared = prepare_case(image, None, grid, plan, keeps_mask=len(stages) > 1)
    case = StagedCase(preprocessed=preprocess_prepared_case(prepared, plan, stages[0]))
    for name in stages[1:]:
        case = StagedCase(
            preprocessed=preprocess_prepared_case(prepared, plan, name),
            previous=case,
            nonzero_mask=prepared.nonzero_mask,
            warn=warn,
        )
    return case
