"""Fully convolutional networks (Long et al. 2015)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.plan.network.encoded import EncodedPlan
from autoseg.plan.values import MOST_STAGES


class FcnPlan(EncodedPlan):
    """An encoder whose last stage is a classifier, without a decoder (Long et al. 2015, arXiv:1411.4038).

    The blocks of the last stage are followed by one more convolution, of one voxel.

    Attributes:
        fused_stages: Stages above the last one whose scores are added to those from below: 0 in FCN-32s, 1 in FCN-16s,
            2 in FCN-8s.
        upsampling: Scores are interpolated, or enlarged by transposed convolutions that start as interpolation.
        dropout: Probability with which a channel of the last stage is zeroed in training.
    """

    family: Literal["fcn"] = "fcn"
    fused_stages: Annotated[int, Field(ge=0, le=MOST_STAGES)]
    upsampling: Literal["linear", "transposed"]
    dropout: Annotated[float, Field(ge=0, lt=1)]

    def list_further_parts(self) -> tuple[str, ...]:
        """Lists how many stages are fused."""
        return (f"fused stages {self.fused_stages}",)

    @model_validator(mode="after")
    def _check_fused_stages(self) -> "FcnPlan":
        most = max(0, self.stage_count - 2)
        if self.fused_stages > most:
            msg = f"fused_stages must be at most {most}: stages between the first and the last"
            raise ValueError(msg)
        return self
