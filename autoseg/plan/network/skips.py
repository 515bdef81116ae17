"""Connections from the encoder to the decoder of a U-shaped network.

One more kind is one more subclass of `SkipPlan` and one more row of `SKIP_PLANS` (its module: a file and a row in
`autoseg.networks.parts.skips`).
"""

from typing import ClassVar, Final, Literal

from autoseg.document import Part
from autoseg.plan.values import ChannelCount


class SkipPlan(Part):
    """How features of the encoder join those of the decoder.

    Attributes:
        name: Tells the kinds apart.
        is_local: Whether a voxel of the result depends on voxels at the same place alone.
    """

    is_local: ClassVar[bool] = False
    name: str


class ConcatenationPlan(SkipPlan):
    """The channels of both (Ronneberger et al. 2015, arXiv:1505.04597)."""

    is_local: ClassVar[bool] = True
    name: Literal["concatenation"] = "concatenation"


class AdditionPlan(SkipPlan):
    """The sum of both."""

    is_local: ClassVar[bool] = True
    name: Literal["addition"] = "addition"


class AttentionGatePlan(SkipPlan):
    """The channels of both, those of the encoder weighted in every voxel (Oktay et al. 2018, arXiv:1804.03999).

    Attributes:
        signal: The features of the decoder from which the weights are computed, beside the encoder's: "below", at the
            resolution below, to which the weights of the encoder are reduced by a convolution with that stride and
            from which the result is interpolated, and the gated features pass a convolution of one voxel;
            "upsampled", at the resolution of the encoder's.
        gates: Gates side by side, whose results are joined by a convolution of one voxel if there are several.
        reduction: Channels of the encoder for every channel within a gate.
    """

    name: Literal["attention_gate"] = "attention_gate"
    signal: Literal["below", "upsampled"]
    gates: ChannelCount
    reduction: ChannelCount


class ResidualPathPlan(SkipPlan):
    """The channels of both, after residual convolutions of the encoder's (Ibtehaz and Rahman 2020, arXiv:1902.04049).

    There is one at the lowest resolution of the skip connections, and one more at every higher one.
    """

    name: Literal["residual_path"] = "residual_path"


SKIP_PLANS: Final[dict[str, type[SkipPlan]]] = {
    "concatenation": ConcatenationPlan,
    "addition": AdditionPlan,
    "attention_gate": AttentionGatePlan,
    "residual_path": ResidualPathPlan,
}
