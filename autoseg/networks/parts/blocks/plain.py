"""Stacked convolutions."""

from itertools import pairwise

from torch import nn

from autoseg.networks.parts.layers import Layer
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import PlainBlockPlan


def build_plain_stage(plan: PlainBlockPlan, site: StageSite) -> nn.Module:
    """Builds convolutions with normalization and activation."""
    channels = list(site.channels)
    if plan.first_width == "half" and site.is_encoder and site.block_count > 1:
        channels[1] = max(1, site.channels_out // 2)
    return nn.Sequential(
        *(
            Layer(below, above, site.kernel, layers=site.layers, is_padded=site.is_padded)
            for below, above in pairwise(channels)
        )
    )
