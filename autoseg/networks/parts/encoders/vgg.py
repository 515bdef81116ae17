"""The encoder of VGG (Simonyan and Zisserman 2015, arXiv:1409.1556)."""

from typing import Final

from torch import nn

from autoseg.networks.parts.encoders.encoder import Encoder
from autoseg.networks.parts.layers import Layer
from autoseg.networks.parts.resampling import build_downsampling
from autoseg.plan.network.encoder_u import EncoderOfLiteraturePlan

ENTRIES: Final = {"convolution": 0, "norm": 1}
"""Place in torchvision's list of layers, after that of the convolution."""


class VggEncoder(Encoder):
    """Convolutions, in every stage but the first after a maximum pooling."""

    def __init__(self, plan: EncoderOfLiteraturePlan) -> None:
        super().__init__(plan)
        self.stages = nn.ModuleList()
        channels = [plan.input_channels]
        for stage, count in enumerate(plan.blocks_per_stage):
            below, features = channels[-1], plan.features_per_stage[stage]
            channels.append(features if count else below)
            inputs = (below, *(features,) * (count - 1))[:count]
            kernel = plan.kernel_sizes[stage]
            convolutions = (Layer(wide, features, kernel, layers=plan.layers) for wide in inputs)
            pooling = build_downsampling("max_pool", below, plan.strides[stage], plan.layers, channels_out=below)
            self.stages.append(nn.Sequential(pooling, nn.Sequential(*convolutions)))
        self.channels = tuple(channels[1:])

    def find_published_name(self, name: str) -> str:
        """Finds the number of the layer."""
        _, stage, _, index, part, tensor = name.split(".")
        return f"features.{self._find_position(int(stage), int(index)) + ENTRIES[part]}.{tensor}"

    def is_left_out(self, published: str) -> bool:
        """Returns whether the layer is one of the classifier, or follows those of the stages."""
        top, index, *_ = (*published.split("."), "")
        end = self._find_position(self.plan.stage_count, 0)
        return top == "classifier" or (top == "features" and index.isdecimal() and int(index) >= end)

    def _find_position(self, stage: int, index: int) -> int:
        """Finds the place of a convolution in torchvision's list of all layers, the poolings included."""
        entries = 2 if self.plan.layers.normalization == "none" else 3
        return sum(entries * count + 1 for count in self.plan.blocks_per_stage[:stage]) + entries * index
