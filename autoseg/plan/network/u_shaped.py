"""U-shaped networks of any block, skip connection, context and layers."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.document import OneOf
from autoseg.plan.network.attentions import ATTENTION_PLANS, AttentionPlan
from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.network.blocks import BLOCK_PLANS, BlockPlan
from autoseg.plan.network.contexts import CONTEXT_PLANS, ContextPlan
from autoseg.plan.network.layers import Downsampling, LayerPlan, OutputWeights, Upsampling
from autoseg.plan.network.skips import SKIP_PLANS, SkipPlan
from autoseg.plan.values import MOST_STAGES, BlockCounts, ChannelCount

Supervision = Literal["own_resolution", "full_resolution", "fused"]
DecoderFeatures = Annotated[tuple[ChannelCount, ...], Field(max_length=MOST_STAGES)]


class UShapedPlan(StagedNetworkPlan):
    """An encoder and a decoder of stages, joined by a skip connection at every resolution.

    Attributes:
        decoder_features_per_stage: Channels of each decoder stage, one fewer than there are stages; index 0 is the
            lowest resolution.
        blocks_per_stage: Blocks of each encoder stage.
        decoder_blocks_per_stage: Blocks of each decoder stage, one fewer; index 0 is the lowest resolution.
        block: The blocks of the encoder.
        decoder_block: The blocks of the decoder.
        skip: Connection that joins the features of the encoder and of the decoder.
        contexts: Modules at the bottleneck, one after the other.
        attention: Module at the end of every stage but the bottleneck; None without.
        layers: Normalization and activation.
        downsampling: "strided": a convolution whose kernel is its stride, with normalization and activation;
            "strided_wide" also brings the channels to those of the stage.
        upsampling: "transposed": a transposed convolution whose kernel is its stride, which also brings the channels to
            those of the stage; "transposed_wide" leaves them as many as below. "linear": interpolation alone. The
            others interpolate, then convolve to the channels of the stage.
        dropout: Probability with which a channel of the bottleneck is zeroed in training.
        supervision: Resolution of the trained outputs, one per decoder stage from the highest resolution down: their
            own, or the full one by linear interpolation of the logits. "fused": at the full one, with the bottleneck's
            as the last, and a first output that is computed from all of them (Qin et al. 2020, arXiv:2005.09007).
        output_weights: The weight in the loss of every trained output, most important first. One weight: only the
            first output is trained.
    """

    family: Literal["u_shaped"] = "u_shaped"
    decoder_features_per_stage: DecoderFeatures
    blocks_per_stage: BlockCounts
    decoder_blocks_per_stage: BlockCounts
    block: Annotated[BlockPlan, OneOf(BLOCK_PLANS, "name")]
    decoder_block: Annotated[BlockPlan, OneOf(BLOCK_PLANS, "name")]
    skip: Annotated[SkipPlan, OneOf(SKIP_PLANS, "name")]
    contexts: Annotated[tuple[Annotated[ContextPlan, OneOf(CONTEXT_PLANS, "name")], ...], Field(max_length=8)]
    attention: Annotated[AttentionPlan, OneOf(ATTENTION_PLANS, "name")] | None
    layers: LayerPlan
    downsampling: Downsampling
    upsampling: Upsampling
    dropout: Annotated[float, Field(ge=0, lt=1)]
    supervision: Supervision
    output_weights: OutputWeights

    def describe(self) -> Mapping[str, str]:
        """Describes the stages and what they are made of."""
        attention = () if self.attention is None else (self.attention.name,)
        parts = (self.block.name, self.skip.name, *(context.name for context in self.contexts), *attention)
        layers = (self.layers.normalization, self.layers.activation)
        return {
            **super().describe(),
            "parts": ", ".join((*parts, *layers)),
        }

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of the blocks."""
        return {
            **super().find_lengths(),
            "blocks_per_stage": len(self.blocks_per_stage),
            "decoder_blocks_per_stage": len(self.decoder_blocks_per_stage) + 1,
            "decoder_features_per_stage": len(self.decoder_features_per_stage) + 1,
        }

    @model_validator(mode="after")
    def _check_outputs(self) -> "UShapedPlan":
        levels = self.stage_count - 1
        most = max(1, levels) if self.supervision != "fused" else levels + 2
        if len(self.output_weights) > most:
            msg = f"output_weights must hold at most {most} weights, as the network has as many outputs"
            raise ValueError(msg)
        if self.supervision == "fused" and len(self.output_weights) != most:
            msg = f"output_weights must hold {most} weights: the fused output, one per decoder stage, the bottleneck's"
            raise ValueError(msg)
        return self
