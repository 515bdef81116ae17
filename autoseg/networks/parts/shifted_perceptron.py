"""Perceptrons over shifted channels (Valanarasu and Patel 2022, arXiv:2203.04967)."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.blocks import NORM_EPSILON
from autoseg.networks.parts.layers import build_kernel, get_ones

FARTHEST_SHIFT_VOXELS: Final = 2
SHIFTS: Final = range(-FARTHEST_SHIFT_VOXELS, FARTHEST_SHIFT_VOXELS + 1)


class ChannelNormalization(nn.Module):
    """Normalizes the channels of every voxel together (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(self, channels: int, epsilon: float = NORM_EPSILON) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=epsilon)

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Normalizes over channels."""
        normalized: Tensor = self.norm(features.movedim(1, -1))
        return normalized.movedim(-1, 1)


class ShiftedPerceptron(nn.Module):
    """Linear layers over channels that were shifted along one axis after the other, added to the input.

    There is one layer per axis; channels are not shifted along axes whose kernels are one voxel. A depthwise
    convolution follows the first layer.
    """

    def __init__(self, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.is_shifted = tuple(extent > 1 for extent in kernel)
        one = get_ones(kernel)
        self.norm = ChannelNormalization(channels)
        self.linear = nn.ModuleList(build_kernel(channels, channels, one) for _ in kernel)
        self.depthwise = build_kernel(channels, channels, kernel, groups=channels)
        self.activation = nn.GELU()

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Adds the output of the perceptron."""
        mixed = self.norm(features)
        for axis, linear in enumerate(self.linear):
            mixed = linear(shift_channels(mixed, axis) if self.is_shifted[axis] else mixed)
            if axis == 0:
                mixed = self.depthwise(mixed)
            if axis < len(self.linear) - 1:
                mixed = self.activation(mixed)
        added: Tensor = features + mixed
        return added


def shift_channels(features: Float[Tensor, "batch channel *space"], axis: int) -> Float[Tensor, "batch channel *space"]:
    """Shifts five groups of channels by -2, -1, 0, 1 and 2 voxels along a spatial axis; zeros follow at the border."""
    dimension = 2 + axis
    extent = features.shape[dimension]
    borders = [0, 0] * (features.ndim - 3 - axis) + [FARTHEST_SHIFT_VOXELS] * 2
    groups = torch.chunk(functional.pad(features, borders), len(SHIFTS), dim=1)
    return torch.cat(
        [
            group.narrow(dimension, FARTHEST_SHIFT_VOXELS - shift, extent)
            for group, shift in zip(groups, SHIFTS, strict=False)  # fewer groups than shifts of very few channels
        ],
        dim=1,
    )
