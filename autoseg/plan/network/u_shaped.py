"""U-shaped networks of any block, skip connection, context and layers."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.document import OneOf
from autoseg.plan.network.attentions import ATTENTION_PLANS, AttentionPlan
from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.network.blocks import BLOCK_PLANS, BlockPlan
from autoseg.plan.network.contexts import CONTEXT_PLANS, ContextPlan, NonLocalPlan
from autoseg.plan.network.layers import DecoderFeatures, Downsampling, LayerPlan, OutputWeights, Upsampling
from autoseg.plan.network.shape_stream import ShapeStreamPlan
from autoseg.plan.network.skips import SKIP_PLANS, SkipPlan
from autoseg.plan.values import BlockCounts

Padding = Literal["same", "valid"]
Supervision = Literal["own_resolution", "full_resolution", "fused"]


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
        padding: "same": convolutions keep the extents. "valid": nothing is padded, so that every voxel of the output is
            computed from the image alone (Ronneberger et al. 2015, arXiv:1505.04597): the input is cropped to the
            nearest extents of which every stride is a divisor, the encoder's features to those of the decoder, and the
            output is smaller than the input by `margin_voxels`.
        dropout: Probability with which a channel of the bottleneck is zeroed in training.
        supervision: Resolution of the trained outputs, one per decoder stage from the highest resolution down: their
            own, or the full one by linear interpolation of the logits. "fused": at the full one, with the bottleneck's
            as the last, and a first output that is computed from all of them (Qin et al. 2020, arXiv:2005.09007).
        output_weights: The weight in the loss of every trained output, most important first. One weight: only the
            first output is trained.
        upsampling_attention: Attention of every voxel to those of the resolution below, which is added to the result of
            every upsampling (Wang et al. 2020, arXiv:1812.04103); None without.
        shape_stream: A second stream, which finds edges; None without.
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
    padding: Padding
    dropout: Annotated[float, Field(ge=0, lt=1)]
    supervision: Supervision
    output_weights: OutputWeights
    upsampling_attention: NonLocalPlan | None = None
    shape_stream: ShapeStreamPlan | None = None

    @property
    def trained_output_count(self) -> int:
        """One for each weight, and the edges."""
        return len(self.output_weights) + (self.shape_stream is not None)

    def describe(self) -> Mapping[str, str]:
        """Describes the stages and what they are made of."""
        attention = () if self.attention is None else (self.attention.name,)
        added = {"upsampling attention": self.upsampling_attention, "shape stream": self.shape_stream}
        more = (*attention, *(name for name, part in added.items() if part is not None))
        parts = (self.block.name, self.skip.name, *(context.name for context in self.contexts), *more)
        padding = () if self.padding == "same" else ("valid convolutions",)
        layers = (self.layers.normalization, self.layers.activation, *padding)
        return {
            **super().describe(),
            "parts": ", ".join((*parts, *layers)),
        }

    @property
    def margin_voxels(self) -> tuple[int, ...]:
        """Half of what is cropped from an input that `patch_divisors` allow, and of what convolutions take from it."""
        if self.padding == "same":
            return super().margin_voxels
        cropped = self.count_cropped(self.patch_divisors)
        lost = (self._count_lost(axis)[1] for axis in range(self.dimensions))
        return tuple((surplus + taken) // 2 for surplus, taken in zip(cropped, lost, strict=True))

    def count_cropped(self, extents_voxels: Sequence[int]) -> tuple[int, ...]:
        """Counts the voxels that a network without padding crops from an input: an even number along every axis, if
        possible, so that the output lies in the middle."""
        counts = []
        for axis, (extent, divisor) in enumerate(zip(extents_voxels, self.patch_divisors, strict=True)):
            surplus = (extent - self._count_lost(axis)[0]) % divisor
            counts.append(surplus + divisor if surplus % 2 and divisor % 2 else surplus)
        return tuple(counts)

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

    @model_validator(mode="after")
    def _check_shape_stream(self) -> "UShapedPlan":
        gates = 0 if self.shape_stream is None else len(self.shape_stream.features_per_gate)
        if gates > self.stage_count - 1:
            msg = (
                f"shape_stream.features_per_gate must hold at most {self.stage_count - 1} values: each gate reads one "
                f"stage of the encoder after the first (got {gates})"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _check_padding(self) -> "UShapedPlan":
        if self.padding == "same":
            return self
        if parts := list(self.list_padded_parts()):
            msg = f"padding must be 'same' with {', '.join(parts)}"
            raise ValueError(msg)
        if len(self.output_weights) > 1:
            msg = "output_weights must hold one weight where padding is 'valid': the first output alone is trained"
            raise ValueError(msg)
        return self

    def list_padded_parts(self) -> Iterator[str]:
        """Lists the parts that need padding, in words."""
        for field, block in (("block", self.block), ("decoder_block", self.decoder_block)):
            if block.count_convolutions(1) is None:
                yield f"{field} {block.name!r}"
        if not self.skip.is_local:
            yield f"skip {self.skip.name!r}"
        yield from (f"context {context.name!r}" for context in self.contexts)
        if self.attention is not None:
            yield f"attention {self.attention.name!r}"
        if self.shape_stream is not None:
            yield "shape_stream"
        if self.upsampling_attention is not None:
            yield "upsampling_attention"
        if not self.upsampling.startswith("transposed"):
            yield f"upsampling {self.upsampling!r}"

    def _count_lost(self, axis: int) -> tuple[int, int]:
        """Counts the voxels of the input that convolutions without padding take: in all stages before the bottleneck,
        and in the whole network."""
        scales = accumulate((stride[axis] for stride in self.strides), mul)
        per_convolution = [(kernel[axis] - 1) * scale for kernel, scale in zip(self.kernel_sizes, scales, strict=True)]
        encoder = _weigh(self.block, self.blocks_per_stage, per_convolution)
        decoder = _weigh(self.decoder_block, self.decoder_blocks_per_stage[::-1], per_convolution[:-1])
        return sum(encoder[:-1]), sum(encoder) + sum(decoder)


def _weigh(block: BlockPlan, counts: Sequence[int], per_convolution: Sequence[int]) -> list[int]:
    return [(block.count_convolutions(count) or 0) * lost for count, lost in zip(counts, per_convolution, strict=True)]
