"""Depthwise separable convolutions (MobileNet, Howard et al. 2017, arXiv:1704.04861)."""

from itertools import pairwise
from typing import Final

from torch import nn

from autoseg.networks.parts.layers import Layer, get_ones
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import SeparablePlan

FEWEST_CHANNELS: Final = 8
"""With fewer, as an image has, one kernel per channel sees too little, and a whole convolution costs little (guess)."""


def build_separable_stage(plan: SeparablePlan, site: StageSite) -> nn.Module:
    """Builds separable convolutions."""
    del plan
    return nn.Sequential(*(_build_convolution(site, below, above) for below, above in pairwise(site.channels)))


def _build_convolution(site: StageSite, channels_in: int, channels_out: int) -> nn.Module:
    if channels_in < FEWEST_CHANNELS:
        return Layer(channels_in, channels_out, site.kernel, layers=site.layers)
    return nn.Sequential(
        Layer(channels_in, channels_in, site.kernel, layers=site.layers, groups=channels_in),
        Layer(channels_in, channels_out, get_ones(site.kernel), layers=site.layers),
    )
