"""The residual blocks of ResNet with strides and dilations (He et al. 2016, arXiv:1512.03385)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import Layer, build_activation, get_ones
from autoseg.plan.network.layers import LayerPlan

EXPANSION: Final = 4
"""Features of a bottleneck per feature of its middle convolution."""


class ResidualUnit(nn.Module):
    """Convolutions and a shortcut, added before the last activation."""

    def __init__(self, residual: nn.Module, shortcut: nn.Module, layers: LayerPlan) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut
        self.activation = build_activation(layers)

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Adds the shortcut, then activates."""
        activated: Tensor = self.activation(self.residual(features) + self.shortcut(features))
        return activated


def build_basic(
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    dilations: tuple[Sequence[int], Sequence[int]],
    layers: LayerPlan,
) -> ResidualUnit:
    """Builds two convolutions.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kernel: Extents of the kernels.
        stride: Stride of the first convolution.
        dilations: The dilation before the stride, and that after it.
        layers: Normalization and activation.
    """
    before, after = dilations
    residual = nn.Sequential(
        Layer(channels_in, channels_out, kernel, layers=layers, stride=stride, dilation=before),
        Layer(channels_out, channels_out, kernel, layers=layers, dilation=after, is_activated=False),
    )
    return ResidualUnit(residual, build_strided_shortcut(channels_in, channels_out, stride, layers), layers)


def build_bottleneck(
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    dilations: tuple[Sequence[int], Sequence[int]],
    layers: LayerPlan,
) -> ResidualUnit:
    """Builds three convolutions, the first and the last of one voxel; the stride is that of the middle one.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kernel: Extents of the middle kernel.
        stride: Stride of the middle convolution.
        dilations: The dilation before the stride, which the middle convolution has, and that after it.
        layers: Normalization and activation.
    """
    one, inner = get_ones(kernel), max(1, channels_out // EXPANSION)
    residual = nn.Sequential(
        Layer(channels_in, inner, one, layers=layers),
        Layer(inner, inner, kernel, layers=layers, stride=stride, dilation=dilations[0]),
        Layer(inner, channels_out, one, layers=layers, is_activated=False),
    )
    return ResidualUnit(residual, build_strided_shortcut(channels_in, channels_out, stride, layers), layers)


UNITS: Final[Mapping[str, Callable[..., ResidualUnit]]] = {"basic": build_basic, "bottleneck": build_bottleneck}


def build_units(
    kind: str,
    channels: tuple[int, int],
    kernel: Sequence[int],
    *,
    count: int,
    layers: LayerPlan,
    stride: Sequence[int] | None = None,
    dilations: tuple[Sequence[int], Sequence[int]] | None = None,
) -> nn.Sequential:
    """Builds a stage of residual blocks, the first of which has the stride.

    Args:
        kind: Key of `UNITS`.
        channels: Channels before and after the stage.
        kernel: Extents of the kernels.
        count: Number of blocks.
        layers: Normalization and activation.
        stride: Stride of the stage; None: ones.
        dilations: The dilation before the stride, and that after it; None: ones.
    """
    one = get_ones(kernel)
    before, after = dilations or (one, one)
    build = UNITS[kind]
    first = build(*channels, kernel, stride=stride or one, dilations=(before, after), layers=layers)
    further = (
        build(channels[1], channels[1], kernel, stride=one, dilations=(after, after), layers=layers)
        for _ in range(count - 1)
    )
    return nn.Sequential(first, *further)


def build_strided_shortcut(channels_in: int, channels_out: int, stride: Sequence[int], layers: LayerPlan) -> nn.Module:
    """Builds the identity where shapes allow, else a strided convolution of one voxel with normalization."""
    if channels_in == channels_out and all(step == 1 for step in stride):
        return nn.Identity()
    return Layer(channels_in, channels_out, get_ones(stride), layers=layers, stride=stride, is_activated=False)
