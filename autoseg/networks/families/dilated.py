"""Networks with a dilated ResNet and a head that sees all of its features: DeepLabV3+, DANet."""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import MAXIMUM_POOLINGS, build_head, enlarge_to
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.contexts import build_context
from autoseg.networks.parts.contexts.context import ContextSite
from autoseg.networks.parts.contexts.dual_attention import ChannelAttention, PositionAttention
from autoseg.networks.parts.layers import Layer
from autoseg.networks.parts.residual_units import build_units
from autoseg.plan.network.dilated import DilatedPlan, DualAttentionHeadPlan, LowLevelHeadPlan


class DilatedHead(nn.Module, ABC):
    """Computes logits from the features of all stages.

    Attributes:
        classifiers: Modules that compute logits from features, one per trained output.
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


class DilatedNetwork(SegmentationNetwork):
    """A ResNet of which the last stages are dilated instead of strided, and a head."""

    plan: DilatedPlan

    def __init__(self, plan: DilatedPlan) -> None:
        super().__init__(plan)
        self.stem = build_pooled_stem(plan)
        self.stages = nn.ModuleList(build_dilated_stages(plan))
        self.head = HEADS[plan.head.name](plan, plan.head)

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes logits, interpolated to the full resolution."""
        logits = self.head(self.compute_features(image), len(self.output_weights))
        return tuple(enlarge_to(output, image.shape[2:]) for output in logits)

    def compute_features(self, image: Float[Tensor, "batch channel *space"]) -> list[Tensor]:
        """Computes the features of every stage."""
        image = self.stem(image)
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features

    @property
    def output_weights(self) -> tuple[float, ...]:
        """Those of the plan, normalized to a sum of 1."""
        return self.weight_outputs(self.plan.output_weights)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """What computes logits."""
        return tuple(f"head.classifiers.{index}" for index in range(len(self.head.classifiers)))


def build_pooled_stem(plan: DilatedPlan) -> nn.Sequential:
    """Builds a strided convolution, and a maximum pooling for every further layer of the stem."""
    first, *others = zip(plan.stem_kernel_sizes, plan.stem_strides, strict=True)
    kernel, stride = first
    convolution = Layer(plan.input_channels, plan.stem_features, kernel, layers=plan.layers, stride=stride)
    pool = MAXIMUM_POOLINGS[plan.dimensions]
    poolings = (
        pool(kernel, stride=stride, padding=tuple((extent - 1) // 2 for extent in kernel)) for kernel, stride in others
    )
    return nn.Sequential(convolution, *poolings)


def build_dilated_stages(plan: DilatedPlan) -> list[nn.Module]:
    """Builds the stages of residual blocks."""
    channels = pairwise((plan.stem_features, *plan.features_per_stage))
    before: tuple[int, ...] = (1,) * plan.dimensions
    stages: list[nn.Module] = []
    for stage, (ends, (stride, dilation)) in enumerate(zip(channels, plan.steps, strict=True)):
        stages.append(
            build_units(
                plan.block,
                ends,
                plan.kernel_sizes[stage],
                count=plan.blocks_per_stage[stage],
                layers=plan.layers,
                stride=stride,
                dilations=(before, dilation),
            )
        )
        before = dilation
    return stages
