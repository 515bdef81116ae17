"""Atrous spatial pyramid pooling (Chen et al. 2018, arXiv:1802.02611)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.networks.parts.layers import Layer, build_activation, build_kernel, build_normalization, get_ones
from autoseg.plan.network.contexts import DilatedPyramidPlan
from autoseg.plan.network.layers import LayerPlan


class DilatedPyramid(Context):
    """Parallel branches over the same features, joined by a convolution of one voxel."""

    def __init__(self, plan: DilatedPyramidPlan, site: ContextSite) -> None:
        super().__init__(site)
        one = get_ones(site.kernel)
        self.channels_out = plan.channels
        self.centre = Layer(site.channels, plan.channels, one, layers=site.layers)
        self.dilated = nn.ModuleList(
            Layer(site.channels, plan.channels, site.kernel, layers=site.layers, dilation=dilation)
            for dilation in plan.dilations
        )
        self.mean = PatchMean(site, plan.channels)
        self.join = Layer((2 + len(self.dilated)) * plan.channels, plan.channels, one, layers=site.layers)

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Joins the branches."""
        dilated = [branch(features) for branch in self.dilated]
        joined: Tensor = self.join(torch.cat((self.centre(features), *dilated, self.mean(features)), dim=1))
        return joined


class PatchMean(nn.Module):
    """The mean of the patch, convolved and repeated for every voxel.

    It is repeated before it is normalized, since the variance of a single value is not defined. Normalizations of a
    sample's channel alone would return a constant; there all channels are normalized together.
    """

    def __init__(self, site: ContextSite, channels_out: int) -> None:
        super().__init__()
        normalization = site.layers.normalization
        together = LayerPlan(
            normalization="layer" if normalization in ("instance", "group") else normalization,
            activation=site.layers.activation,
        )
        has_bias = normalization == "none"
        self.convolution = build_kernel(site.channels, channels_out, get_ones(site.kernel), bias=has_bias)
        self.norm = build_normalization(together, channels_out, site.dimensions)
        self.activation = build_activation(together)

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Averages, convolves, repeats, normalizes and activates."""
        means = self.convolution(features.mean(dim=tuple(range(2, features.ndim)), keepdim=True))
        activated: Tensor = self.activation(self.norm(means.repeat(1, 1, *features.shape[2:])))
        return activated
