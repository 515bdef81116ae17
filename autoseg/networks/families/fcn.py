"""Fully convolutional networks (Long et al. 2015, arXiv:1411.4038)."""

from collections.abc import Sequence
from math import prod
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import LINEAR, TRANSPOSED_CONVOLUTIONS, Enlargement, build_head
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.encoder import EncoderStage
from autoseg.networks.parts.layers import Layer
from autoseg.plan.network import FcnPlan

DROPOUTS: Final[dict[int, type[nn.Module]]] = {2: nn.Dropout2d, 3: nn.Dropout3d}


class Fcn(SegmentationNetwork):
    """Scores of the last stage, to which those of the stages above are added.

    `scores` and `enlargements` go from the last stage up; the last enlargement reaches the full resolution.
    """

    plan: FcnPlan

    def __init__(self, plan: FcnPlan) -> None:
        super().__init__(plan)
        stages = [EncoderStage(plan, stage) for stage in range(plan.stage_count)]
        self.stages = nn.ModuleList(stages)
        features, one = plan.encoded_channels[-1], (1,) * plan.dimensions
        dropout = DROPOUTS[plan.dimensions]
        self.classifier = nn.Sequential(
            dropout(plan.dropout), Layer(features, features, one, layers=plan.layers), dropout(plan.dropout)
        )
        last = plan.stage_count - 1
        fused = range(last - 1, last - 1 - plan.fused_stages, -1)
        # The features of a stage that are scored are those that its blocks read.
        sources = (features, *(stages[stage].channels_downsampled for stage in fused))
        self.scores = nn.ModuleList(build_head(source, plan.output_channels, plan.dimensions) for source in sources)
        steps = [*(plan.strides[stage + 1] for stage in fused), find_remaining_stride(plan)]
        self.enlargements = nn.ModuleList(
            build_score_enlargement(plan.upsampling, plan.output_channels, step) for step in steps
        )

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes logits."""
        reduced = []
        for stage in self.stages:
            reduced.append(stage.get_submodule("downsampling")(image))
            image = stage.get_submodule("blocks")(reduced[-1])
        first, *others = self.scores
        logits = first(self.classifier(image))
        for index, score in enumerate(others):
            logits = self.enlargements[index](logits) + score(reduced[-2 - index])
        return (self.enlargements[-1](logits),)

    @property
    def output_weights(self) -> tuple[float, ...]:
        """There is one output."""
        return (1.0,)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The scores, and what enlarges them."""
        scores = [f"scores.{index}" for index in range(len(self.scores))]
        return (*scores, *(f"enlargements.{index}" for index in range(len(self.enlargements))))

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Starts enlargements as linear interpolation."""
        super().initialize_weights(generator)
        for enlargement in self.enlargements:
            if isinstance(enlargement, nn.ConvTranspose2d | nn.ConvTranspose3d):
                set_linear_kernel(enlargement.get_parameter("weight"), enlargement.stride)


def find_remaining_stride(plan: FcnPlan) -> tuple[int, ...]:
    """Finds the stride from the full resolution to that of the scores after all fusions."""
    left = plan.strides[: plan.stage_count - plan.fused_stages]
    return tuple(prod(steps) for steps in zip(*left, strict=True))


def build_score_enlargement(kind: str, channels: int, stride: Sequence[int]) -> nn.Module:
    """Builds the step of scores to a higher resolution."""
    dimensions = len(stride)
    if kind == "linear":
        return Enlargement(stride, LINEAR[dimensions])
    kernel = tuple(2 * step - step % 2 for step in stride)
    padding = tuple(step // 2 for step in stride)
    enlarge = TRANSPOSED_CONVOLUTIONS[dimensions]
    return enlarge(channels, channels, kernel, stride=tuple(stride), padding=padding, bias=False)


@torch.no_grad()
def set_linear_kernel(weight: Float[Tensor, "channels channels_out ..."], stride: Sequence[int]) -> None:
    """Sets the kernel of a transposed convolution so that it interpolates every channel linearly."""
    kernel = torch.ones((), device=weight.device)
    for extent, step in zip(weight.shape[2:], stride, strict=True):
        distances = (torch.arange(extent, device=weight.device) - (extent - 1) / 2).abs()
        kernel = kernel[..., None] * (1 - distances / step)
    weight.zero_()
    for channel in range(len(weight)):
        weight[channel, channel] = kernel
