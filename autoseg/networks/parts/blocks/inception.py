"""Inception blocks (Szegedy et al. 2015, arXiv:1409.4842)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import MAXIMUM_POOLINGS
from autoseg.networks.parts.layers import Layer, get_ones
from autoseg.networks.parts.stage import StageSite, stack_blocks
from autoseg.plan.network.blocks import InceptionPlan

BRANCHES = 4


def build_inception_stage(plan: InceptionPlan, site: StageSite) -> nn.Module:
    """Builds blocks of four parallel branches."""
    del plan
    return stack_blocks(site, InceptionBlock)


class InceptionBlock(nn.Module):
    """Joins four branches of a quarter of the channels each.

    A convolution of one voxel; such a one and then one of the kernel of the stage, or of the next but one larger kernel
    (3 and 5 voxels); a maximum pooling of the kernel and then one voxel. Branches without channels are left out.
    """

    def __init__(self, site: StageSite) -> None:
        super().__init__()
        channels = [(site.channels_out + BRANCHES - 1 - index) // BRANCHES for index in range(BRANCHES)]
        builders = (_build_point, _build_kernel_branch, _build_large_branch, _build_pooling)
        self.branches = nn.ModuleList(
            build(site, width) for build, width in zip(builders, channels, strict=True) if width > 0
        )

    def forward(
        self, features: Float[Tensor, "batch channels_in *space"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Joins the branches."""
        return torch.cat([branch(features) for branch in self.branches], dim=1)


def _build_point(site: StageSite, channels: int) -> nn.Module:
    return Layer(site.channels_in, channels, get_ones(site.kernel), layers=site.layers)


def _build_kernel_branch(site: StageSite, channels: int) -> nn.Module:
    return nn.Sequential(_build_point(site, channels), Layer(channels, channels, site.kernel, layers=site.layers))


def _build_large_branch(site: StageSite, channels: int) -> nn.Module:
    kernel = tuple(2 * extent - 1 for extent in site.kernel)
    return nn.Sequential(_build_point(site, channels), Layer(channels, channels, kernel, layers=site.layers))


def _build_pooling(site: StageSite, channels: int) -> nn.Module:
    padding = tuple(extent // 2 for extent in site.kernel)
    pooling = MAXIMUM_POOLINGS[site.dimensions](site.kernel, stride=1, padding=padding)
    return nn.Sequential(pooling, _build_point(site, channels))
