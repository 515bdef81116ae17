"""Blocks of several receptive fields (MultiResUNet, Ibtehaz and Rahman 2020, arXiv:1902.04049)."""

from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import Layer, build_activation, build_normalization, get_ones
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import MultiResPlan


def build_multires_stage(plan: MultiResPlan, site: StageSite) -> nn.Module:
    """Builds blocks of three chained convolutions."""
    inputs = (site.channels_in, *(plan.count_channels(site.channels_out),) * (site.block_count - 1))
    return nn.Sequential(*(MultiResBlock(plan, replace(site, channels_in=channels)) for channels in inputs))


class MultiResBlock(nn.Module):
    """Joins the results of three chained convolutions, of 3, 5 and 7 voxels together, and adds a shortcut."""

    def __init__(self, plan: MultiResPlan, site: StageSite) -> None:
        super().__init__()
        channels_out = plan.count_channels(site.channels_out)
        channels = (site.channels_in, *plan.split(site.channels_out))
        one, layers = get_ones(site.kernel), site.layers
        self.convolutions = nn.ModuleList(
            Layer(below, above, site.kernel, layers=layers) for below, above in pairwise(channels)
        )
        self.joined_norm = build_normalization(layers, channels_out, site.dimensions)
        self.shortcut = Layer(site.channels_in, channels_out, one, layers=layers, is_activated=False)
        self.activation = build_activation(layers)
        self.norm = build_normalization(layers, channels_out, site.dimensions)

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch joined *space"]:
        """Computes the chain, joins, adds."""
        chained, results = features, []
        for convolution in self.convolutions:
            chained = convolution(chained)
            results.append(chained)
        joined = self.joined_norm(torch.cat(results, dim=1)) + self.shortcut(features)
        normalized: Tensor = self.norm(self.activation(joined))
        return normalized
