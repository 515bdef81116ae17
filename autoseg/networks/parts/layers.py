"""Convolutions with the normalization and the activation of a plan.

Activations that need not their input for the backward pass work in place: what lies before them, a normalization or a
convolution, keeps its input and not its output.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import gcd
from typing import Final

from torch import nn

from autoseg.networks.blocks import CONVOLUTIONS, NEGATIVE_SLOPE, InstanceNormalization
from autoseg.networks.fusion import RepConvolution
from autoseg.plan.network.layers import Activation, LayerPlan

MOST_GROUPS: Final = 8
BATCH_NORMALIZATIONS: Final[Mapping[int, Callable[[int], nn.Module]]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
ACTIVATIONS: Final[Mapping[Activation, Callable[[], nn.Module]]] = {
    "leaky_relu": partial(nn.LeakyReLU, NEGATIVE_SLOPE, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
"""Those of one parameter and more steps keep their input, which therefore must not be overwritten."""


def build_normalization(layers: LayerPlan, channels: int, dimensions: int) -> nn.Module:
    """Builds the normalization of a number of channels; the identity for "none"."""
    if layers.normalization == "none":
        return nn.Identity()
    if layers.normalization == "instance":
        return InstanceNormalization(channels)
    if layers.normalization == "batch":
        return BATCH_NORMALIZATIONS[dimensions](channels)
    return nn.GroupNorm(gcd(channels, MOST_GROUPS) if layers.normalization == "group" else 1, channels)


def build_activation(layers: LayerPlan) -> nn.Module:
    """Builds the activation."""
    return ACTIVATIONS[layers.activation]()


def build_kernel(
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] | int = 1,
    dilation: Sequence[int] | int = 1,
    groups: int = 1,
    bias: bool = True,
    is_padded: bool = True,
) -> nn.Module:
    """Builds a convolution that keeps the extent for stride 1, whatever its dilation, unless it is not padded."""
    steps = [dilation] * len(kernel) if isinstance(dilation, int) else list(dilation)
    around = (step * (extent - 1) // 2 for extent, step in zip(kernel, steps, strict=True))
    padding = tuple(around) if is_padded else 0
    return CONVOLUTIONS[len(kernel)](
        channels_in,
        channels_out,
        tuple(kernel),
        stride=stride if isinstance(stride, int) else tuple(stride),
        padding=padding,
        dilation=tuple(steps),
        groups=groups,
        bias=bias,
    )


class Layer(nn.Sequential):
    """Convolution, normalization, activation; the convolution has a bias where no normalization would cancel it."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        *,
        layers: LayerPlan,
        stride: Sequence[int] | int = 1,
        dilation: Sequence[int] | int = 1,
        groups: int = 1,
        is_activated: bool = True,
        is_padded: bool = True,
    ) -> None:
        super().__init__()
        self.convolution = build_kernel(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=groups,
            bias=layers.normalization == "none",
            is_padded=is_padded,
        )
        self.norm = build_normalization(layers, channels_out, len(kernel))
        if is_activated:
            self.activation = build_activation(layers)


class RepLayer(nn.Sequential):
    """Sum of convolutions that is one in prediction, normalization, activation."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Sequence[int], *, layers: LayerPlan) -> None:
        super().__init__()
        self.convolution = RepConvolution(channels_in, channels_out, kernel, bias=layers.normalization == "none")
        self.norm = build_normalization(layers, channels_out, len(kernel))
        self.activation = build_activation(layers)


def build_shortcut(channels_in: int, channels_out: int, kernel: Sequence[int], *, layers: LayerPlan) -> nn.Module:
    """Builds the identity, or a convolution of one voxel with normalization where the number of channels changes."""
    if channels_in == channels_out:
        return nn.Identity()
    return Layer(channels_in, channels_out, get_ones(kernel), layers=layers, is_activated=False)


def get_ones(like: Sequence[int]) -> tuple[int, ...]:
    """Returns the kernel of one voxel of as many axes."""
    return (1,) * len(like)
