"""Residual U-blocks (U2-Net, Qin et al. 2020, arXiv:2005.09007)."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import MAXIMUM_POOLINGS, enlarge_to
from autoseg.networks.parts.layers import Layer, get_ones
from autoseg.networks.parts.stage import StageSite, stack_blocks
from autoseg.plan.network.blocks import ResidualUPlan

FEWEST_HALVINGS: Final = 2
"""Below a stage; with fewer, its blocks are dilated."""
DILATIONS: Final = (1, 2, 4, 8)


def build_residual_u_stage(plan: ResidualUPlan, site: StageSite) -> nn.Module:
    """Builds blocks of a small U-Net and a shortcut."""
    return stack_blocks(site, lambda block: ResidualUBlock(plan, block))


class ResidualUBlock(nn.Module):
    """A convolution, to whose result that of a small U-Net is added."""

    def __init__(self, plan: ResidualUPlan, site: StageSite) -> None:
        super().__init__()
        self.entrance = Layer(site.channels_in, site.channels_out, site.kernel, layers=site.layers)
        self.nested = _build_nested(plan, site)

    def forward(
        self, features: Float[Tensor, "batch channels_in *space"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Convolves, then adds what the small U-Net computes."""
        entered: Tensor = self.entrance(features)
        added: Tensor = entered + self.nested(entered)
        return added


def _build_nested(plan: ResidualUPlan, site: StageSite) -> nn.Module:
    if len(site.strides_below) < FEWEST_HALVINGS:
        strides = (get_ones(site.kernel),) * (len(DILATIONS) - 1)
        return NestedU(site, site.channels_out // plan.dilated_reduction, strides=strides, dilations=DILATIONS)
    strides = (*site.strides_below, get_ones(site.kernel))
    return NestedU(site, site.channels_out // plan.reduction, strides=strides, dilations=(*(1,) * len(strides), 2))


class NestedU(nn.Module):
    """A U-Net of one convolution per level, and few features."""

    def __init__(
        self, site: StageSite, features: int, *, strides: tuple[tuple[int, ...], ...], dilations: tuple[int, ...]
    ) -> None:
        """Builds the levels.

        Args:
            site: The place of the stage.
            features: Channels of all levels; at least one is used.
            strides: The step from every level to the next.
            dilations: One for every level, along all axes.
        """
        super().__init__()
        features, kernel, layers = max(1, features), site.kernel, site.layers
        inputs = (site.channels_out, *(features,) * len(strides))
        results = (site.channels_out, *(features,) * (len(strides) - 1))
        self.poolings = nn.ModuleList((nn.Identity(), *map(_build_pooling, strides)))
        self.descent = nn.ModuleList(
            Layer(channels, features, kernel, layers=layers, dilation=dilation)
            for channels, dilation in zip(inputs, dilations, strict=True)
        )
        self.ascent = nn.ModuleList(
            Layer(2 * features, channels, kernel, layers=layers, dilation=dilation)
            for channels, dilation in zip(results, dilations[:-1], strict=True)
        )

    def forward(
        self, features: Float[Tensor, "batch channels_out *space"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Computes all levels down, then up."""
        levels = []
        for pooling, convolution in zip(self.poolings, self.descent, strict=True):
            features = convolution(pooling(features))
            levels.append(features)
        features = levels.pop()
        for convolution in reversed(self.ascent):
            level = levels.pop()
            features = convolution(torch.cat((enlarge_to(features, level.shape[2:]), level), dim=1))
        return features


def _build_pooling(stride: tuple[int, ...]) -> nn.Module:
    return nn.Identity() if set(stride) == {1} else MAXIMUM_POOLINGS[len(stride)](stride)
