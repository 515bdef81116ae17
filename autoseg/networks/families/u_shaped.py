"""U-shaped networks of any block, skip connection, context and layers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autoseg.geometry import locate_centre
from autoseg.networks.blocks import LINEAR, build_head
from autoseg.networks.levels import LevelNetwork
from autoseg.networks.network import TargetKind
from autoseg.networks.parts.attentions import build_attention
from autoseg.networks.parts.blocks import build_stage
from autoseg.networks.parts.contexts import build_context
from autoseg.networks.parts.contexts.context import ContextSite
from autoseg.networks.parts.resampling import NonLocalUpsampling, UpsamplingStep, build_downsampling
from autoseg.networks.parts.shape_stream import ShapeStream
from autoseg.networks.parts.skips import build_skip
from autoseg.networks.parts.skips.skip import SkipSite
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.u_shaped import UShapedPlan

DROPOUTS: Mapping[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}


class UShapedNetwork(LevelNetwork):
    """An encoder and a decoder of stages, joined by a skip connection at every resolution.

    `levels` and `heads` are numbered like the encoder's stages: level 0 has the full resolution.
    """

    plan: UShapedPlan

    def __init__(self, plan: UShapedPlan) -> None:
        super().__init__(plan)
        encoded = tuple(plan.block.count_channels(features) for features in plan.features_per_stage)
        channels = (plan.input_channels, *encoded)
        self.stages = nn.ModuleList(
            _build_encoder_stage(plan, stage, channels_in=below, channels_out=above)
            for stage, (below, above) in enumerate(pairwise(channels))
        )
        self.bottleneck = Bottleneck(plan, channels_in=encoded[-1])
        sources = self.level_channels
        self.levels = nn.ModuleList(
            DecoderStage(plan, level, channels=encoded[level], channels_below=sources[level + 1])
            for level in range(plan.stage_count - 1)
        )
        self.heads = nn.ModuleList(
            build_head(sources[level], plan.output_channels, plan.dimensions) for level in self._list_heads()
        )
        self.shape_stream: ShapeStream | None = None
        if plan.shape_stream is not None:
            self.shape_stream = ShapeStream(
                plan.shape_stream, encoded, kernel=plan.kernel_sizes[0], layers=plan.layers, channels=sources[0]
            )
        if plan.supervision == "fused":
            joined = plan.output_channels * len(self.heads)
            self.fusion: nn.Module = build_head(joined, plan.output_channels, plan.dimensions)
        else:
            self.fusion = nn.Identity()

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch _output ..."], ...]:
        """Computes logits, the most important output first, those of edges last."""
        image = self._crop(image)
        skips = self._encode(image)
        edges = None if self.shape_stream is None else self.shape_stream(skips)
        decoded = self._decode(skips)
        if self.shape_stream is not None and edges is not None:
            decoded[0] = self.shape_stream.fuse(decoded[0], edges)
        outputs = self._compute_logits(decoded, decoded[0].shape[2:])
        return outputs if edges is None or not self.deep_supervision else (*outputs, edges)

    def compute_levels(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Tensor, list[Tensor]]:
        """Computes the features of all levels."""
        skips = self._encode(self._crop(image))
        return skips[0], self._decode(skips)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Those of the decoder's stages and of the bottleneck."""
        wide = reversed(self.plan.decoder_features_per_stage)
        return (*map(self.plan.decoder_block.count_channels, wide), self.bottleneck.channels_out)

    @property
    def fine_channels(self) -> int:
        """Those of the encoder's first stage."""
        return self.plan.block.count_channels(self.plan.features_per_stage[0])

    @property
    def output_weights(self) -> tuple[float, ...]:
        """Those of the plan, normalized to a sum of 1; then that of the edges."""
        weights = self.weight_outputs(self.plan.output_weights)
        stream = self.plan.shape_stream
        return weights if stream is None or not self.deep_supervision else (*weights, stream.edge_weight)

    @property
    def output_targets(self) -> tuple[TargetKind, ...]:
        """Labels; then edges, if there is a shape stream."""
        has_edges = self.plan.shape_stream is not None and self.deep_supervision
        targets = super().output_targets
        return (*targets[:-1], "edges") if has_edges else targets

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The heads, and what fuses their logits."""
        heads = tuple(f"heads.{index}" for index in range(len(self.heads)))
        return (*heads, "fusion") if self.plan.supervision == "fused" else heads

    @property
    def output_layers(self) -> tuple[nn.Module, ...] | None:
        """The heads; None where a layer behind them fuses their logits."""
        return None if self.plan.supervision == "fused" else super().output_layers

    def _list_heads(self) -> range:
        """The levels that have a head; the number of stages is the bottleneck."""
        if self.plan.supervision == "fused":
            return range(self.plan.stage_count)
        return range(len(self.plan.output_weights))

    def _crop(self, image: Tensor) -> Tensor:
        """Crops an image to extents of which every stride of a network without padding is a divisor."""
        if self.plan.padding == "same":
            return image
        extents = image.shape[2:]
        kept = [extent - count for extent, count in zip(extents, self.plan.count_cropped(extents), strict=True)]
        return _crop_centre(image, kept)

    def _encode(self, image: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features

    def _decode(self, skips: list[Tensor]) -> list[Tensor]:
        features = self.bottleneck(skips.pop())
        decoded = [features]
        for level in reversed(range(self.finest_level, len(self.levels))):
            features = self.levels[level](features, skips.pop())
            decoded.append(features)
        return decoded[::-1]

    def _compute_logits(self, decoded: list[Tensor], extents: torch.Size) -> tuple[Tensor, ...]:
        if self.plan.supervision == "fused":
            sides = self._compute_sides(decoded, len(self.heads), extents)
            fused: Tensor = self.fusion(torch.cat(sides, dim=1))
            return (fused, *sides) if self.deep_supervision else (fused,)
        count = len(self.plan.output_weights) if self.deep_supervision else 1
        if self.plan.supervision == "full_resolution":
            return tuple(self._compute_sides(decoded, count, extents))
        return tuple(self.heads[level](decoded[level]) for level in range(count))

    def _compute_sides(self, decoded: list[Tensor], count: int, extents: torch.Size) -> list[Tensor]:
        sides = [self.heads[level](decoded[level]) for level in range(count)]
        mode = LINEAR[len(extents)]
        return [
            side if side.shape[2:] == extents else functional.interpolate(side, size=extents, mode=mode)
            for side in sides
        ]


class Bottleneck(nn.Module):
    """What follows the last stage of the encoder: dropout and context modules.

    Attributes:
        channels_out: Channels of the result.
    """

    def __init__(self, plan: UShapedPlan, *, channels_in: int) -> None:
        super().__init__()
        self.dropout = DROPOUTS[plan.dimensions](plan.dropout) if plan.dropout else nn.Identity()
        self.contexts = nn.ModuleList()
        self.channels_out = channels_in
        for context in plan.contexts:
            site = ContextSite(channels=self.channels_out, kernel=plan.kernel_sizes[-1], layers=plan.layers)
            built = build_context(context, site)
            self.contexts.append(built)
            self.channels_out = built.channels_out

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Applies them in the order of the plan."""
        features = self.dropout(features)
        for context in self.contexts:
            features = context(features)
        return features


class DecoderStage(nn.Module):
    """One decoder stage: upsamples the features from below, joins those of the encoder, applies blocks."""

    def __init__(self, plan: UShapedPlan, level: int, *, channels: int, channels_below: int) -> None:
        """Builds the stage.

        Args:
            plan: Describes the whole network.
            level: Stage of the encoder of the same resolution.
            channels: Channels of its features.
            channels_below: Channels of the features from below.
        """
        super().__init__()
        features, kernel, stride = plan.features_per_stage[level], plan.kernel_sizes[level], plan.strides[level + 1]
        row = plan.stage_count - 2 - level
        decoded = plan.decoder_features_per_stage[row]
        step = UpsamplingStep(
            plan.upsampling, channels_below, features, stride=stride, kernel=kernel, layers=plan.layers
        )
        self.upsampling: UpsamplingStep | NonLocalUpsampling = step
        if plan.upsampling_attention is not None:
            self.upsampling = NonLocalUpsampling(
                plan.upsampling_attention, step, channels_below, dimensions=plan.dimensions
            )
        self.skip = build_skip(
            plan.skip,
            SkipSite(
                level=level,
                level_count=plan.stage_count - 1,
                channels=channels,
                channels_below=channels_below,
                channels_upsampled=self.upsampling.channels_out,
                stride=stride,
                kernel=kernel,
                layers=plan.layers,
            ),
        )
        blocks = build_stage(
            plan.decoder_block,
            StageSite(
                channels_in=self.skip.channels_out,
                channels_out=decoded,
                block_count=plan.decoder_blocks_per_stage[row],
                kernel=kernel,
                strides_below=plan.strides[level + 1 :],
                layers=plan.layers,
                is_encoder=False,
                is_padded=plan.padding == "same",
            ),
        )
        attended = plan.decoder_block.count_channels(decoded)
        self.blocks = nn.Sequential(blocks, build_attention(plan.attention, attended, kernel))

    def forward(
        self, below: Float[Tensor, "batch channels_below *space_below"], encoded: Float[Tensor, "batch channel ..."]
    ) -> Float[Tensor, "batch channels_out ..."]:
        """Computes the features of this resolution; those of the encoder are cropped to the extents of the others."""
        upsampled = self.upsampling(below)
        if encoded.shape[2:] != upsampled.shape[2:]:
            encoded = _crop_centre(encoded, upsampled.shape[2:])
        features: Tensor = self.blocks(self.skip(encoded, upsampled, below))
        return features


def _crop_centre(features: Tensor, extents: Sequence[int]) -> Tensor:
    return features[(slice(None), slice(None), *locate_centre(features.shape[2:], extents))]


def _build_encoder_stage(plan: UShapedPlan, stage: int, *, channels_in: int, channels_out: int) -> nn.Module:
    features, stride = plan.features_per_stage[stage], plan.strides[stage]
    is_widened = plan.downsampling == "strided_wide" and prod(stride) > 1
    site = StageSite(
        channels_in=features if is_widened else channels_in,
        channels_out=features,
        block_count=plan.blocks_per_stage[stage],
        kernel=plan.kernel_sizes[stage],
        strides_below=plan.strides[stage + 1 :],
        layers=plan.layers,
        is_encoder=True,
        is_padded=plan.padding == "same",
    )
    is_last = stage == plan.stage_count - 1
    return nn.Sequential(
        build_downsampling(plan.downsampling, channels_in, stride, plan.layers, channels_out=features),
        build_stage(plan.block, site),
        build_attention(None if is_last else plan.attention, channels_out, plan.kernel_sizes[stage]),
    )
