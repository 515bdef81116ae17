"""The encoder of DenseNet (Huang et al. 2017, arXiv:1608.06993)."""

from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.encoders.encoder import Encoder
from autoseg.networks.parts.encoders.stem import POOLED_STAGE, build_stem, build_stem_pooling
from autoseg.networks.parts.layers import build_activation, build_kernel, build_normalization, get_ones
from autoseg.networks.parts.resampling import build_downsampling
from autoseg.plan.network.encoder_u import DenseNetEncoderPlan, EncoderOfLiteraturePlan
from autoseg.plan.network.layers import LayerPlan

INNER_FACTOR: Final = 4  # features between the two convolutions of a layer, per feature that the layer adds
PUBLISHED_BLOCKS: Final = 4
STEM_NAMES: Final = {"convolution": "conv0", "norm": "norm0"}
LAYER_NAMES: Final = {"reduction": "1", "growth": "2"}
PART_NAMES: Final = {"convolution": "conv", "norm": "norm"}


class Preactivated(nn.Module):
    """Normalization and activation before a convolution; the features are left as they are."""

    def __init__(self, channels_in: int, channels_out: int, kernel: tuple[int, ...], layers: LayerPlan) -> None:
        super().__init__()
        self.norm = build_normalization(layers, channels_in, len(kernel))
        self.activation = build_activation(layers)
        if isinstance(self.activation, nn.ReLU | nn.LeakyReLU):
            self.activation.inplace = layers.normalization != "none"  # else it would overwrite the features
        self.convolution = build_kernel(channels_in, channels_out, kernel, bias=layers.normalization == "none")

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Normalizes, activates, convolves."""
        convolved: Tensor = self.convolution(self.activation(self.norm(features)))
        return convolved


class DenseLayer(nn.Module):
    """Adds features that are computed from all features before."""

    def __init__(self, channels: int, growth: int, kernel: tuple[int, ...], layers: LayerPlan) -> None:
        super().__init__()
        inner = INNER_FACTOR * growth
        self.reduction = Preactivated(channels, inner, get_ones(kernel), layers)
        self.growth = Preactivated(inner, growth, kernel, layers)

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Joins the features with new ones."""
        return torch.cat((features, self.growth(self.reduction(features))), dim=1)


class FinalActivation(nn.Module):
    """Normalization and activation of the features of the last stage."""

    def __init__(self, channels: int, plan: EncoderOfLiteraturePlan) -> None:
        super().__init__()
        self.norm = build_normalization(plan.layers, channels, plan.dimensions)
        self.activation = build_activation(plan.layers)

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Normalizes, then activates."""
        activated: Tensor = self.activation(self.norm(features))
        return activated


class DenseNetEncoder(Encoder):
    """The image, a strided convolution, then stages of dense blocks after a pooling or a transition.

    Every stage of dense blocks has what leads to it at place 0, the block at place 1; the last one the final
    normalization and activation at place 2.
    """

    first_skip: ClassVar[int] = POOLED_STAGE

    def __init__(self, plan: EncoderOfLiteraturePlan) -> None:
        super().__init__(plan)
        assert isinstance(plan.encoder, DenseNetEncoderPlan), "the plan of this encoder"
        growth = plan.encoder.growth
        self.channels = (plan.input_channels, *plan.features_per_stage[1:])
        self.stages = nn.ModuleList([nn.Identity(), build_stem(plan)])
        for stage in range(POOLED_STAGE, plan.stage_count):
            kernel, count = plan.kernel_sizes[stage], plan.blocks_per_stage[stage]
            first = plan.features_per_stage[stage] - count * growth
            layers = [DenseLayer(first + index * growth, growth, kernel, plan.layers) for index in range(count)]
            entrance = build_stem_pooling(plan) if stage == POOLED_STAGE else build_transition(plan, stage, first)
            self.stages.append(nn.Sequential(entrance, nn.Sequential(*layers)))
        last = self.stages[-1]
        if isinstance(last, nn.Sequential) and plan.stage_count > POOLED_STAGE:
            last.append(FinalActivation(plan.features_per_stage[-1], plan))

    def find_published_name(self, name: str) -> str:
        """Finds the name of the layer and its part."""
        _, stage, *places, part, tensor = name.split(".")
        block, published = int(stage) - 1, PART_NAMES[part]
        if not places:
            return f"features.{STEM_NAMES[part]}.{tensor}"
        if places[0] == "0":
            return f"features.transition{block - 1}.{published}.{tensor}"
        if places[0] == "1":
            number = LAYER_NAMES[places[2]]
            return f"features.denseblock{block}.denselayer{int(places[1]) + 1}.{published}{number}.{tensor}"
        return f"features.{'norm5' if block == PUBLISHED_BLOCKS else f'transition{block}.norm'}.{tensor}"

    def is_left_out(self, published: str) -> bool:
        """Returns whether the layer is the classifier, or one after those of the stages."""
        top, name, *_ = (*published.split("."), "")
        blocks = self.plan.stage_count - POOLED_STAGE
        later = {f"denseblock{number}" for number in range(blocks + 1, PUBLISHED_BLOCKS + 1)}
        later |= {f"transition{number}" for number in range(blocks, PUBLISHED_BLOCKS)}
        if blocks < PUBLISHED_BLOCKS:
            later.add("norm5")
        return top == "classifier" or (top == "features" and name in later)


def build_transition(plan: EncoderOfLiteraturePlan, stage: int, channels_out: int) -> nn.Module:
    """Builds the step to the resolution of a stage, which also reduces the features."""
    reduction = Preactivated(plan.features_per_stage[stage - 1], channels_out, (1,) * plan.dimensions, plan.layers)
    pooling = build_downsampling(
        "average_pool", channels_out, plan.strides[stage], plan.layers, channels_out=channels_out
    )
    return nn.Sequential(reduction, pooling)
