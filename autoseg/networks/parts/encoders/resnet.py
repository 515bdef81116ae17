"""The encoder of ResNet (He et al. 2016, arXiv:1512.03385)."""

from itertools import pairwise
from typing import ClassVar, Final

from torch import nn

from autoseg.networks.parts.encoders.encoder import Encoder
from autoseg.networks.parts.encoders.stem import POOLED_STAGE, build_stem, build_stem_pooling
from autoseg.networks.parts.residual_units import build_units
from autoseg.plan.network.encoder_u import EncoderOfLiteraturePlan, ResNetEncoderPlan

STEM_NAMES: Final = {"convolution": "conv1", "norm": "bn1"}
UNIT_NAMES: Final = {"convolution": "conv", "norm": "bn"}
SHORTCUT_NAMES: Final = {"convolution": "downsample.0", "norm": "downsample.1"}


class ResNetEncoder(Encoder):
    """The image, a strided convolution, then stages of residual blocks, the first after a maximum pooling."""

    first_skip: ClassVar[int] = POOLED_STAGE

    def __init__(self, plan: EncoderOfLiteraturePlan) -> None:
        super().__init__(plan)
        assert isinstance(plan.encoder, ResNetEncoderPlan), "the plan of this encoder"
        self.channels = (plan.input_channels, *plan.features_per_stage[1:])
        self.stages = nn.ModuleList([nn.Identity(), build_stem(plan)])
        ends = pairwise(self.channels[1:])
        for stage, channels in enumerate(ends, POOLED_STAGE):
            is_pooled = stage == POOLED_STAGE
            units = build_units(
                plan.encoder.block,
                channels,
                plan.kernel_sizes[stage],
                count=plan.blocks_per_stage[stage],
                layers=plan.layers,
                stride=None if is_pooled else plan.strides[stage],
            )
            self.stages.append(nn.Sequential(build_stem_pooling(plan) if is_pooled else nn.Identity(), units))

    def find_published_name(self, name: str) -> str:
        """Finds the name of the block and its part."""
        _, stage, *places, part, tensor = name.split(".")
        if not places:
            return f"{STEM_NAMES[part]}.{tensor}"
        _, block, branch, *index = places
        published = f"{UNIT_NAMES[part]}{int(index[0]) + 1}" if branch == "residual" else SHORTCUT_NAMES[part]
        return f"layer{int(stage) - 1}.{block}.{published}.{tensor}"

    def is_left_out(self, published: str) -> bool:
        """Returns whether the layer is the classifier, or one of a later stage."""
        top = published.split(".")[0]
        number = top.removeprefix("layer")
        return top == "fc" or (top != number and number.isdecimal() and int(number) > self.plan.stage_count - 2)
