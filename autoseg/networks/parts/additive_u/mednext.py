"""Residual units of MedNeXt (Roy et al. 2023, arXiv:2303.09975) and MedNeXt-v2 (Roy et al. 2025, arXiv:2512.17774)."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.additive_u.unit import UnitSite, build_step
from autoseg.networks.parts.layers import build_activation, build_kernel, build_normalization, get_ones
from autoseg.plan.network.additive_u import MedNeXtUnitPlan

EPSILON: Final = 1e-6  # ConvNeXt V2: of the mean response that divides


def build_mednext_unit(plan: MedNeXtUnitPlan, site: UnitSite) -> nn.Module:
    """Builds a unit; the stem is a convolution of one voxel."""
    if site.step == "stem":
        return build_kernel(site.channels_in, site.channels_out, get_ones(site.kernel))
    return MedNeXtUnit(plan, site)


class MedNeXtUnit(nn.Module):
    """Depthwise convolution, normalization, expansion, activation and compression, added to a shortcut.

    A step has its stride in the depthwise convolution, which is transposed for a higher resolution, and in a shortcut
    of kernels of one voxel. The code of the authors pads the output of a transposed convolution before its
    first voxel, which moves features by one voxel; here they stay where they are.
    """

    def __init__(self, plan: MedNeXtUnitPlan, site: UnitSite) -> None:
        super().__init__()
        channels = site.channels_in
        expanded = channels * plan.expansion_ratios[site.stage]
        one = get_ones(site.kernel)
        self.depthwise = build_step(site, channels, site.kernel, groups=channels)
        self.norm = build_normalization(site.layers, channels, site.dimensions)
        self.expansion = build_kernel(channels, expanded, one)
        self.activation = build_activation(site.layers)
        self.response = ResponseNormalization(expanded) if plan.response_normalization else nn.Identity()
        self.compression = build_kernel(expanded, site.channels_out, one)
        self.shortcut = nn.Identity() if site.step == "none" else build_step(site, site.channels_out, one, groups=1)

    def forward(
        self, features: Float[Tensor, "batch channels_in *space_in"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Adds the shortcut to the compressed channels."""
        expanded = self.activation(self.expansion(self.norm(self.depthwise(features))))
        residual: Tensor = self.compression(self.response(expanded))
        shortcut: Tensor = self.shortcut(features)
        return shortcut + residual


class ResponseNormalization(nn.Module):
    """Global response normalization (Woo et al. 2023, arXiv:2301.00808), the identity at first.

    Every channel is scaled by its norm over space, divided by the mean norm of all channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Adds the scaled features to the features."""
        space = tuple(range(2, features.ndim))
        ones = (1,) * len(space)
        response = torch.linalg.vector_norm(features.float(), dim=space, keepdim=True)
        relative = (response / (response.mean(dim=1, keepdim=True) + EPSILON)).to(features.dtype)
        weight, bias = (parameter.to(features.dtype).view(1, -1, *ones) for parameter in (self.weight, self.bias))
        normalized: Tensor = features * (1 + weight * relative) + bias
        return normalized
