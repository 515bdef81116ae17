"""UNeXt: convolutions at high resolutions, shifted perceptrons at low ones."""

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.values import Count


class UNextPlan(StagedNetworkPlan):
    """A convolution or a perceptron per resolution (Valanarasu and Patel 2022, arXiv:2203.04967).

    Attributes:
        token_stages: Number of lowest resolutions that a strided convolution and a perceptron lead to; a convolution
            and max pooling lead to the others.
        layers: Normalization and activation of the convolutions.
    """

    family: Literal["unext"] = "unext"
    token_stages: Count
    layers: LayerPlan

    def describe(self) -> Mapping[str, str]:
        """Describes the stages and how many of them have perceptrons."""
        return {**super().describe(), "stages with perceptrons": str(self.token_stages)}

    @model_validator(mode="after")
    def _check_tokens(self) -> "UNextPlan":
        if self.token_stages >= self.stage_count:
            msg = f"token_stages must be less than the {self.stage_count} stages of features_per_stage"
            raise ValueError(msg)
        return self
