"""U-shaped networks of residual units, whose steps between the stages change the number of channels.

One more kind of residual unit is one more subclass of `ResidualUnitPlan` and one more row of `RESIDUAL_UNIT_PLANS` (its
modules: a file and a row in `autoseg.networks.parts.additive_u`).
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from autoseg.document import OneOf, Part
from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.values import MOST_STAGES, BlockCounts, Count, Positive


class ResidualUnitPlan(Part):
    """Units that add their input to their output, in kind.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str


class MedNeXtUnitPlan(ResidualUnitPlan):
    """Depthwise convolution, expansion and compression of the channels (Roy et al. 2023, arXiv:2303.09975).

    Attributes:
        expansion_ratios: The channels between expansion and compression as a multiple of those before, per stage; a
            decoder stage has that of the encoder stage of its resolution, a step that of the stage that it leads to.
        response_normalization: Whether the expanded channels are normalized by their global response (Woo et al. 2023,
            arXiv:2301.00808), as in MedNeXt-v2 (Roy et al. 2025, arXiv:2512.17774).
    """

    name: Literal["mednext"] = "mednext"
    expansion_ratios: Annotated[tuple[Count, ...], Field(min_length=1, max_length=MOST_STAGES)]
    response_normalization: bool


class PreActivationUnitPlan(ResidualUnitPlan):
    """Normalization and activation before each of two convolutions (He et al. 2016, arXiv:1603.05027).

    Steps to lower resolutions are strided convolutions.

    Attributes:
        upsampling: Steps to higher resolutions. "linear": a convolution of one voxel and linear interpolation
            (Myronenko 2018, arXiv:1810.11654). "transposed": a transposed convolution with the kernel of the stage, as
            in MONAI's Auto3DSeg.
    """

    name: Literal["pre_activation"] = "pre_activation"
    upsampling: Literal["linear", "transposed"]


RESIDUAL_UNIT_PLANS: Final[dict[str, type[ResidualUnitPlan]]] = {
    "mednext": MedNeXtUnitPlan,
    "pre_activation": PreActivationUnitPlan,
}


class AdditiveUPlan(StagedNetworkPlan):
    """An encoder and a decoder of residual units; features of both are added at every resolution.

    Attributes:
        blocks_per_stage: Units of each encoder stage, beside the step that leads to it.
        decoder_blocks_per_stage: Units of each decoder stage, one fewer; index 0 is the lowest resolution.
        unit: Units of the stages, and the steps between them.
        layers: Normalization and activation.
        output_weights: The weight in the loss of every trained output, most important first; one per decoder stage
            from the highest resolution down. One weight: only the first output is trained.
    """

    family: Literal["additive_u"] = "additive_u"
    blocks_per_stage: BlockCounts
    decoder_blocks_per_stage: BlockCounts
    unit: Annotated[ResidualUnitPlan, OneOf(RESIDUAL_UNIT_PLANS, "name")]
    layers: LayerPlan
    output_weights: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=MOST_STAGES)]

    @property
    def trained_output_count(self) -> int:
        """One for each weight."""
        return len(self.output_weights)

    def describe(self) -> Mapping[str, str]:
        """Describes the stages and what they are made of."""
        parts = (self.unit.name, self.layers.normalization, self.layers.activation)
        return {
            **super().describe(),
            "units": " ".join(map(str, (*self.blocks_per_stage, *self.decoder_blocks_per_stage))),
            "parts": ", ".join(parts),
        }

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of the units."""
        lengths = {
            **super().find_lengths(),
            "blocks_per_stage": len(self.blocks_per_stage),
            "decoder_blocks_per_stage": len(self.decoder_blocks_per_stage) + 1,
        }
        if isinstance(self.unit, MedNeXtUnitPlan):
            lengths["unit.expansion_ratios"] = len(self.unit.expansion_ratios)
        return lengths

    @model_validator(mode="after")
    def _check_outputs(self) -> "AdditiveUPlan":
        most = max(1, self.stage_count - 1)
        if len(self.output_weights) > most:
            msg = f"output_weights must hold at most {most} weights, as the network has as many outputs"
            raise ValueError(msg)
        return self
