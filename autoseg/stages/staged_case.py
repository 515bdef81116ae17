"""An image that is to be segmented, preprocessed for every stage that takes part."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from autoseg.geometry import Grid
from autoseg.plan import Plan
from autoseg.preprocessing.case import CaseGeometry, PreparedCase, PreprocessedCase
from autoseg.preprocessing.pipeline import prepare_case, preprocess_prepared_case


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedCase:
    """An image preprocessed for one configuration, and for those that predict before it.

    Attributes:
        preprocessed: For the network of this stage, without what it gets from the previous one.
        previous: The same image for the previous stage; None for the first one.
        nonzero_mask: The nonzero region of the crop, before resampling; None for the first stage.
    """

    preprocessed: PreprocessedCase
    previous: "StagedCase | None" = None
    nonzero_mask: Bool[np.ndarray, "crop_z crop_y crop_x"] | None = None

    @property
    def image(self) -> Float32[np.ndarray, "channel z y x"]:
        """Cropped, normalized and resampled."""
        return self.preprocessed.image

    @property
    def geometry(self) -> CaseGeometry:
        """The way back to the grid of the file."""
        return self.preprocessed.geometry


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
