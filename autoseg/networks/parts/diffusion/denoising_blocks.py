"""Blocks of denoising networks and of their autoencoders (Ho et al. 2020, arXiv:2006.11239; Rombach et al. 2022)."""

from collections.abc import Sequence
from math import gcd, log
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.blocks import Enlargement
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.networks.parts.tokens import attend_without_map

MOST_GROUPS: Final = 32
LONGEST_WAVELENGTH: Final = 10_000.0
PUBLISHED_EPSILON: Final = 1e-6


def build_group_norm(channels: int) -> nn.GroupNorm:
    """Builds the normalization of groups of channels, at most 32 of them."""
    return nn.GroupNorm(gcd(channels, MOST_GROUPS), channels)


def embed_steps(steps: Int[Tensor, " batch"], features: int) -> Float[Tensor, "batch features"]:
    """Computes cosines and sines of the number of a step, from the shortest wavelength to the longest."""
    half = features // 2
    exponents = torch.arange(half, device=steps.device, dtype=torch.float32) * (-log(LONGEST_WAVELENGTH) / half)
    angles = steps[:, None].float() * exponents.exp()
    return functional.pad(torch.cat((angles.cos(), angles.sin()), dim=1), (0, features - 2 * half))


class DenoisingBlock(nn.Module):
    """Two convolutions after normalization and activation, whose result is added to the input.

    Args:
        step_features: Features of the number of the step, which scale and shift the second normalization (Dhariwal and
            Nichol 2021, arXiv:2105.05233); 0: there is none.
        dropout: Probability of dropout before the second convolution.
        is_scaled: Whether the number of the step scales and shifts; otherwise it is added before that normalization, as
            in Ho et al. 2020.
        resampling: Change of resolution of input and result; None: there is none.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        *,
        step_features: int = 0,
        is_scaled: bool = True,
        dropout: float = 0.0,
        resampling: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.resampling: nn.Module = resampling or nn.Identity()
        self.first_norm = build_group_norm(channels_in)
        self.first = build_kernel(channels_in, channels_out, kernel)
        self.is_scaled = is_scaled
        self.step = nn.Linear(step_features, (1 + is_scaled) * channels_out) if step_features else None
        self.second_norm = build_group_norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.second = build_kernel(channels_out, channels_out, kernel)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = build_kernel(channels_in, channels_out, get_ones(kernel))

    def forward(
        self, features: Float[Tensor, "batch channel_in *space"], embedding: Float[Tensor, "batch step"] | None = None
    ) -> Float[Tensor, "batch channel_out ..."]:
        """Convolves twice and adds the input."""
        inner: Tensor = self.first(self.resampling(functional.silu(self.first_norm(features))))
        if self.step is None:
            inner = self.second_norm(inner)
        else:
            assert embedding is not None, "the block was built for numbers of steps"
            inner = self._tell_step(inner, self.step(functional.silu(embedding)))
        inner = self.second(self.dropout(functional.silu(inner)))
        added: Tensor = self.shortcut(self.resampling(features)) + inner
        return added

    def _tell_step(self, inner: Tensor, changes: Tensor) -> Tensor:
        """Normalizes features, and changes them by the number of the step."""
        changes = changes.reshape(*changes.shape, *(1,) * (inner.ndim - 2))
        if not self.is_scaled:
            added: Tensor = self.second_norm(inner + changes)
            return added
        scale, shift = changes.chunk(2, dim=1)
        scaled: Tensor = self.second_norm(inner) * (1 + scale) + shift
        return scaled


class VoxelAttention(nn.Module):
    """Attention of all voxels to each other, whose result is added to the input."""

    def __init__(self, channels: int, dimensions: int, *, heads: int = 1, is_biased: bool = True) -> None:
        super().__init__()
        one = get_ones(range(dimensions))
        self.heads = heads
        self.norm = build_group_norm(channels)
        self.mixing = build_kernel(channels, 3 * channels, one, bias=is_biased)
        self.output = build_kernel(channels, channels, one)

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Averages the values of all voxels for each and adds the input."""
        mixed = self.mixing(self.norm(features)).flatten(2).transpose(1, 2)
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2).contiguous() for part in mixed.chunk(3, dim=-1)
        )
        attended = attend_without_map(query, key, value).transpose(2, 3).reshape(features.shape)
        added: Tensor = features + self.output(attended)
        return added


def build_reduction(channels: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Module:
    """Builds the convolution to a lower resolution."""
    return build_kernel(channels, channels, kernel, stride=tuple(stride))


def build_late_reduction(channels: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Module:
    """Builds the convolution to half the resolution of pictures as Stable Diffusion has it: zeros follow alone."""
    convolution = build_kernel(channels, channels, kernel, stride=tuple(stride), is_padded=False)
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), convolution)


def use_published_epsilon(module: nn.Module) -> None:
    """Sets the smallest variance of all normalizations to that of the autoencoder of Stable Diffusion."""
    for part in module.modules():
        if isinstance(part, nn.GroupNorm):
            part.eps = PUBLISHED_EPSILON


def build_enlargement(channels: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Module:
    """Builds the step to a higher resolution: the nearest voxel, then a convolution."""
    return nn.Sequential(Enlargement(stride, "nearest"), build_kernel(channels, channels, kernel))


class MiddleBlocks(nn.Module):
    """Two residual blocks, and attention between them where it is planned."""

    def __init__(
        self,
        channels: int,
        kernel: Sequence[int],
        *,
        has_attention: bool,
        step_features: int = 0,
        is_scaled: bool = True,
        dropout: float = 0.0,
        heads: int = 1,
    ) -> None:
        super().__init__()
        self.first, self.second = (
            DenoisingBlock(
                channels, channels, kernel, step_features=step_features, is_scaled=is_scaled, dropout=dropout
            )
            for _ in range(2)
        )
        self.attention: nn.Module = nn.Identity()
        if has_attention:
            self.attention = VoxelAttention(channels, len(kernel), heads=heads, is_biased=is_scaled)

    def forward(
        self, features: Float[Tensor, "batch channel *space"], embedding: Float[Tensor, "batch step"] | None = None
    ) -> Float[Tensor, "batch channel *space"]:
        """Applies the blocks."""
        processed: Tensor = self.second(self.attention(self.first(features, embedding)), embedding)
        return processed


def zero_last_convolutions(module: nn.Module) -> None:
    """Sets the last convolution of every residual block to zero, so that it begins as its shortcut (Ho et al. 2020)."""
    for part in module.modules():
        if isinstance(part, DenoisingBlock):
            _set_to_zero(part.second)
        elif isinstance(part, VoxelAttention):
            _set_to_zero(part.output)


def _set_to_zero(convolution: nn.Module) -> None:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
