"""Convolutions of parallel branches that are one in prediction (RepVGG, Ding et al. 2021, arXiv:2101.03697)."""

from itertools import pairwise

from torch import nn

from autoseg.networks.parts.layers import RepLayer
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import RepPlan


def build_rep_stage(plan: RepPlan, site: StageSite) -> nn.Module:
    """Builds convolutions of parallel branches, with normalization and activation."""
    del plan
    return nn.Sequential(
        *(RepLayer(below, above, site.kernel, layers=site.layers) for below, above in pairwise(site.channels))
    )
