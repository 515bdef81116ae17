"""Networks with a dilated ResNet and a head that sees all of its features.

One more head is one more subclass of `HeadPlan` and one more row of `HEAD_PLANS` (its module: a row of `HEADS` in
`autoseg.networks.families.dilated`).
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import model_validator

from autoseg.document import OneOf, Part
from autoseg.plan.network.contexts import DilatedPyramidPlan, DualAttentionPlan
from autoseg.plan.network.layers import OutputWeights
from autoseg.plan.network.stemmed import StemmedPlan
from autoseg.plan.values import BlockCounts, ChannelCount, Count

UnitKind = Literal["basic", "bottleneck"]


class HeadPlan(Part):
    """What computes logits from the features of a ResNet.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str


class LowLevelHeadPlan(HeadPlan):
    """Parallel dilated convolutions, joined with features of stage 0 (DeepLabV3+, Chen et al. 2018, arXiv:1802.02611).

    Attributes:
        context: The dilated convolutions.
        low_level_channels: Channels to which the features of stage 0 are reduced.
        channels: Channels after joining.
    """

    name: Literal["aspp_low_level"] = "aspp_low_level"
    context: DilatedPyramidPlan
    low_level_channels: ChannelCount
    channels: ChannelCount


class DualAttentionHeadPlan(HeadPlan):
    """Attention between positions and between channels, side by side (DANet, Fu et al. 2019, arXiv:1809.02983).

    Attributes:
        context: Parameters of the attentions.
        channels: Channels that each of them gets.
    """

    name: Literal["dual_attention"] = "dual_attention"
    context: DualAttentionPlan
    channels: ChannelCount


HEAD_PLANS: Final[dict[str, type[HeadPlan]]] = {
    "aspp_low_level": LowLevelHeadPlan,
    "dual_attention": DualAttentionHeadPlan,
}
MOST_OUTPUTS: Final[Mapping[str, int]] = {"dual_attention": 3}
"""Trained outputs of heads that have more than one."""


class DilatedPlan(StemmedPlan):
    """A ResNet of which the last stages are dilated instead of strided, and a head.

    The stem is a convolution, followed by a maximum pooling per further layer.

    Attributes:
        blocks_per_stage: Residual blocks of each stage.
        block: "basic": two convolutions; "bottleneck": three, of which the middle one has a quarter of the features.
        output_stride: Largest product of strides along an axis. Further strides of the axis become dilations.
        head: The module that computes logits.
        output_weights: The weight in the loss of every trained output. The head "dual_attention" has three: of the sum
            of its attentions, of positions, of channels.
    """

    family: Literal["dilated"] = "dilated"
    blocks_per_stage: BlockCounts
    block: UnitKind
    output_stride: Count
    head: Annotated[HeadPlan, OneOf(HEAD_PLANS, "name")]
    output_weights: OutputWeights

    @property
    def steps(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """The stride of every stage, and the dilation from it on."""
        product, dilation, steps = self.stem_stride, (1,) * self.dimensions, []
        for wanted in self.strides:
            kept = tuple(
                step if reached * step <= self.output_stride else 1
                for step, reached in zip(wanted, product, strict=True)
            )
            product = tuple(a * b for a, b in zip(product, kept, strict=True))
            dilation = tuple(a * step // b for a, step, b in zip(dilation, wanted, kept, strict=True))
            steps.append((kept, dilation))
        return tuple(steps)

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """The product of the strides that are not dilations, of every axis."""
        product = self.stem_stride
        for stride, _ in self.steps:
            product = tuple(a * b for a, b in zip(product, stride, strict=True))
        return product

    @property
    def trained_output_count(self) -> int:
        """One for each weight."""
        return len(self.output_weights)

    def describe(self) -> Mapping[str, str]:
        """Describes the stages, what they are made of, and the head."""
        parts = (self.block, f"output stride {self.output_stride}", self.head.name)
        layers = (self.layers.normalization, self.layers.activation)
        return {**super().describe(), "parts": ", ".join((*parts, *layers))}

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of the blocks."""
        return {**super().find_lengths(), "blocks_per_stage": len(self.blocks_per_stage)}

    @model_validator(mode="after")
    def _check_outputs(self) -> "DilatedPlan":
        most = MOST_OUTPUTS.get(self.head.name, 1)
        if len(self.output_weights) not in (1, most):
            msg = f"output_weights must hold 1 or {most} weights, as the head {self.head.name} has as many outputs"
            raise ValueError(msg)
        return self
