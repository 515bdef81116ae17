"""Stacks of fusible convolutions on half of the channels (CSPStackRep, Li et al. 2022, arXiv:2209.02976)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import Layer, RepLayer, get_ones
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import CspRepPlan


class CspRepStage(nn.Module):
    """Two halves of the channels, of which one passes residual pairs of fusible convolutions, joined at the end."""

    def __init__(self, plan: CspRepPlan, site: StageSite) -> None:
        super().__init__()
        del plan
        half, one = max(1, site.channels_out // 2), get_ones(site.kernel)
        self.entrance = Layer(site.channels_in, half, one, layers=site.layers)
        self.pairs = nn.Sequential(*(RepPair(half, site) for _ in range(site.block_count)))
        self.bypass = Layer(site.channels_in, half, one, layers=site.layers)
        self.join = Layer(2 * half, site.channels_out, one, layers=site.layers)

    def forward(
        self, features: Float[Tensor, "batch channels_in *space"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Joins both halves."""
        passed = self.pairs(self.entrance(features))
        joined: Tensor = self.join(torch.cat((passed, self.bypass(features)), dim=1))
        return joined


class RepPair(nn.Module):
    """Two fusible convolutions and a shortcut."""

    def __init__(self, channels: int, site: StageSite) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(RepLayer(channels, channels, site.kernel, layers=site.layers) for _ in range(2)))

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Adds the shortcut."""
        added: Tensor = features + self.layers(features)
        return added
