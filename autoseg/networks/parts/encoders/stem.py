"""The beginning of ResNet and DenseNet: a strided convolution, then a maximum pooling."""

from typing import Final

from torch import nn

from autoseg.networks.blocks import MAXIMUM_POOLINGS
from autoseg.networks.parts.layers import Layer
from autoseg.plan.network.encoder_u import EncoderOfLiteraturePlan

STEM_KERNEL: Final = 7
POOLING_KERNEL: Final = 3
STEM_STAGE: Final = 1
POOLED_STAGE: Final = 2  # it begins with the pooling


def build_stem(plan: EncoderOfLiteraturePlan) -> Layer:
    """Builds the strided convolution; its kernel has one voxel along the axes where that of its stage has."""
    kernel = tuple(STEM_KERNEL if extent > 1 else 1 for extent in plan.kernel_sizes[STEM_STAGE])
    stride = plan.strides[STEM_STAGE]
    return Layer(plan.input_channels, plan.features_per_stage[STEM_STAGE], kernel, layers=plan.layers, stride=stride)


def build_stem_pooling(plan: EncoderOfLiteraturePlan) -> nn.Module:
    """Builds the maximum pooling, whose blocks overlap along the axes where kernels have more than one voxel."""
    stride = plan.strides[POOLED_STAGE]
    if all(step == 1 for step in stride):
        return nn.Identity()
    kernel = tuple(
        POOLING_KERNEL if extent > 1 and step > 1 else step
        for extent, step in zip(plan.kernel_sizes[POOLED_STAGE], stride, strict=True)
    )
    padding = tuple((extent - step + 1) // 2 for extent, step in zip(kernel, stride, strict=True))
    return MAXIMUM_POOLINGS[plan.dimensions](kernel, stride=stride, padding=padding)
