"""Dense blocks (Huang et al. 2017, arXiv:1608.06993)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import Layer, get_ones
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import DensePlan


class DenseStage(nn.Module):
    """Convolutions that each see the input and all results before, then one of a single voxel over all of them."""

    def __init__(self, plan: DensePlan, site: StageSite) -> None:
        super().__init__()
        growth = max(1, round(plan.growth * site.channels_out))
        seen = [site.channels_in + index * growth for index in range(site.block_count + 1)]
        self.convolutions = nn.ModuleList(
            Layer(channels, growth, site.kernel, layers=site.layers) for channels in seen[:-1]
        )
        self.transition = Layer(seen[-1], site.channels_out, get_ones(site.kernel), layers=site.layers)

    def forward(
        self, features: Float[Tensor, "batch channels_in *space"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Joins the result of every convolution to what it saw."""
        for convolution in self.convolutions:
            features = torch.cat((features, convolution(features)), dim=1)
        reduced: Tensor = self.transition(features)
        return reduced
