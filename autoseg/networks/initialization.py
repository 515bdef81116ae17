"""Initialization of the weights of a network."""

from typing import Final

import torch
from torch import Tensor, nn

from autoseg.networks.blocks import NEGATIVE_SLOPE, InstanceNormalization, ResidualBlock

CONVOLUTION_KINDS: Final = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def initialize_weights(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draws all convolution weights from Kaiming's normal distribution and sets the rest to constants.

    Variance 2 / ((1 + a^2) fan_in) with a the slope of the leaky ReLU (He et al. 2015, arXiv:1502.01852); torch takes
    as fan_in of a transposed convolution its **output** channels times the kernel's voxels, and so does the reference
    implementation. Biases are 0. The last normalization of a residual block starts at 0, so that every block starts
    as its shortcut (Goyal et al. 2017, arXiv:1706.02677).

    Args:
        generator: Source of the random numbers; None is torch's global one.
    """
    for module in network.modules():
        if isinstance(module, CONVOLUTION_KINDS):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE, generator=generator)
            _fill(module.bias, 0.0)
        elif isinstance(module, InstanceNormalization):
            _fill(module.weight, 1.0)
            _fill(module.bias, 0.0)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            _fill(module.second.norm.weight, 0.0)


def _fill(parameter: Tensor | None, value: float) -> None:
    if parameter is not None:
        nn.init.constant_(parameter, value)
