"""Heads of dilated networks: they compute logits from the features of all stages."""

from abc import ABC, abstractmethod
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import build_head
from autoseg.networks.parts.contexts import build_context
from autoseg.networks.parts.contexts.context import ContextSite
from autoseg.networks.parts.contexts.dual_attention import ChannelAttention, PositionAttention
from autoseg.networks.parts.encoder import enlarge_to
from autoseg.networks.parts.layers import Layer
from autoseg.plan.network.dilated import DilatedPlan, DualAttentionHeadPlan, LowLevelHeadPlan


class DilatedHead(nn.Module, ABC):
    """Computes logits from the features of all stages.

    Attributes:
        classifiers: What computes logits from features, one module per trained output.
    """

    classifiers: nn.ModuleList

    @abstractmethod
    def forward(self, stages: list[Float[Tensor, "batch _channels ..."]], output_count: int) -> tuple[Tensor, ...]:
        """Computes the first outputs, at any resolution.

        Args:
            stages: The features of every stage.
            output_count: Number of outputs wanted.
        """


class LowLevelHead(DilatedHead):
    """Parallel dilated convolutions, joined with features of stage 0 (DeepLabV3+)."""

    def __init__(self, plan: DilatedPlan, head: LowLevelHeadPlan) -> None:
        super().__init__()
        one = (1,) * plan.dimensions
        site = ContextSite(channels=plan.features_per_stage[-1], kernel=plan.kernel_sizes[-1], layers=plan.layers)
        self.context = build_context(head.context, site)
        self.low_level = Layer(plan.features_per_stage[0], head.low_level_channels, one, layers=plan.layers)
        joined, kernel = self.context.channels_out + head.low_level_channels, plan.kernel_sizes[0]
        self.join = nn.Sequential(
            Layer(joined, head.channels, kernel, layers=plan.layers),
            Layer(head.channels, head.channels, kernel, layers=plan.layers),
        )
        self.classifiers = nn.ModuleList([build_head(head.channels, plan.output_channels, plan.dimensions)])

    def forward(self, stages: list[Float[Tensor, "batch _channels ..."]], output_count: int) -> tuple[Tensor, ...]:
        """Computes the one output, at the resolution of stage 0."""
        del output_count
        context = enlarge_to(self.context(stages[-1]), stages[0].shape[2:])
        features = self.join(torch.cat((context, self.low_level(stages[0])), dim=1))
        return (self.classifiers[0](features),)


class DualAttentionHead(DilatedHead):
    """Attention between positions and between channels, whose results are added (DANet)."""

    def __init__(self, plan: DilatedPlan, head: DualAttentionHeadPlan) -> None:
        super().__init__()
        features, kernel, channels = plan.features_per_stage[-1], plan.kernel_sizes[-1], head.channels
        self.to_positions = Layer(features, channels, kernel, layers=plan.layers)
        self.to_channels = Layer(features, channels, kernel, layers=plan.layers)
        self.positions = PositionAttention(head.context, channels, kernel)
        self.channels = ChannelAttention()
        self.from_positions = Layer(channels, channels, kernel, layers=plan.layers)
        self.from_channels = Layer(channels, channels, kernel, layers=plan.layers)
        self.classifiers = nn.ModuleList(
            build_head(channels, plan.output_channels, plan.dimensions) for _ in plan.output_weights
        )

    def forward(self, stages: list[Float[Tensor, "batch _channels ..."]], output_count: int) -> tuple[Tensor, ...]:
        """Computes logits of the sum, of the attention between positions, of that between channels."""
        positions, channels = self.to_positions(stages[-1]), self.to_channels(stages[-1])
        positions = self.from_positions(positions + self.positions(positions))
        channels = self.from_channels(channels + self.channels(channels))
        sources = (positions + channels, positions, channels)[:output_count]
        return tuple(classifier(source) for classifier, source in zip(self.classifiers, sources, strict=False))


HEADS: Final[dict[str, type[DilatedHead]]] = {
    "aspp_low_level": LowLevelHead,
    "dual_attention": DualAttentionHead,
}
"""Built from the plans of the same names in `autoseg.plan.network.dilated.HEAD_PLANS`."""
