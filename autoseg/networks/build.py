"""From a network plan to a network: one decoder for all architectures, one encoder for each."""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import DecoderLevel, build_head
from autoseg.networks.initialization import initialize_weights
from autoseg.networks.plain_unet import PlainEncoder
from autoseg.networks.residual_unet import ResidualEncoder
from autoseg.plan import Architecture, NetworkPlan

ARCHITECTURES: Final[dict[Architecture, Callable[[NetworkPlan], nn.Module]]] = {
    "plain_unet": PlainEncoder,
    "residual_encoder_unet": ResidualEncoder,
}


class SegmentationNetwork(nn.Module):
    """A U-Net: image in, logits out.

    Decoder levels and heads are numbered like the encoder's stages: level 0 has the full resolution. Every level has
    a head; without deep supervision only head 0 is computed. Names of the weights beside nnU-Net's, whose decoder
    counts from the lowest resolution, with j = stages - 2 - level (the encoders document theirs):

    | here | there |
    |---|---|
    | `levels.{level}.upsampling` | `decoder.transpconvs.{j}` |
    | `levels.{level}.units.{i}.normalized.{convolution|norm}` | `decoder.stages.{j}.convs.{i}.{conv|norm}` |
    | `heads.{level}` | `decoder.seg_layers.{j}` |

    Attributes:
        deep_supervision: Whether `forward` returns the logits of `supervised_level_count` levels instead of one. May
            be switched at any time, for example off for prediction.
        supervised_level_count: Outputs under deep supervision: all levels but the lowest (whose weight in the loss
            would be 0), and at least one.
    """

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.encoder = ARCHITECTURES[plan.architecture](plan)
        level_count = len(plan.features_per_stage) - 1
        self.levels = nn.ModuleList(_build_level(plan, level) for level in range(level_count))
        self.heads = nn.ModuleList(
            build_head(features, plan.output_channels, plan.dimensions)
            for features in plan.features_per_stage[: max(1, level_count)]
        )
        self.supervised_level_count = max(1, level_count - 1)
        self.deep_supervision = plan.deep_supervision
        self._freeze_unused_heads()

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes logits, highest resolution first; exactly one entry without deep supervision.

        Args:
            image: Each extent is a multiple of the product of the strides of its axis.
        """
        skips: list[Tensor] = self.encoder(image)
        features = skips.pop()
        output_count = self.supervised_level_count if self.deep_supervision else 1
        logits: list[Tensor] = [] if len(self.levels) else [self.heads[0](features)]
        for level in reversed(range(len(self.levels))):
            features = self.levels[level](features, skips)
            if level < output_count:
                logits.append(self.heads[level](features))
        return tuple(reversed(logits))

    def _freeze_unused_heads(self) -> None:
        """Heads that this plan never trains would have no gradient, which distributed training takes for an error."""
        trained_count = self.supervised_level_count if self.deep_supervision else 1
        for head in self.heads[trained_count:]:
            head.requires_grad_(requires_grad=False)


def build_network(plan: NetworkPlan, generator: torch.Generator | None = None) -> SegmentationNetwork:
    """Builds the network of a plan, with initialized weights, in training mode.

    Args:
        generator: Source of the first weights; None is torch's global one (see `torch.manual_seed`). The same state
            of the source gives the same weights.
    """
    network = SegmentationNetwork(plan)
    initialize_weights(network, generator)
    return network


def _build_level(plan: NetworkPlan, level: int) -> DecoderLevel:
    lowest_level = len(plan.features_per_stage) - 2
    return DecoderLevel(
        plan.features_per_stage[level + 1],
        plan.features_per_stage[level],
        stride=plan.strides[level + 1],
        kernel=plan.kernel_sizes[level],
        unit_count=plan.convolutions_per_decoder_stage[lowest_level - level],
    )
