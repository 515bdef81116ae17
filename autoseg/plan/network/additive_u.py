"""U-shaped networks of residual units, whose steps between the stages change the number of channels."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.document import OneOf
from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.network.residual_units import RESIDUAL_UNIT_PLANS, MedNeXtUnitPlan, ResidualUnitPlan
from autoseg.plan.values import MOST_STAGES, BlockCounts, Positive


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
