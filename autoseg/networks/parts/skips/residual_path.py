"""Residual convolutions on skip connections (ResPath, Ibtehaz and Rahman 2020, arXiv:1902.04049)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import Layer, build_activation, build_normalization, get_ones
from autoseg.networks.parts.skips.skip import Skip, SkipSite
from autoseg.plan.network.skips import ResidualPathPlan


class ResidualPath(Skip):
    """The channels of the decoder, then those of the encoder after the path, which are no more than the decoder's."""

    def __init__(self, plan: ResidualPathPlan, site: SkipSite) -> None:
        super().__init__(plan, site)
        width = min(site.channels, site.channels_upsampled)
        inputs = (site.channels, *(width,) * (site.level_count - site.level - 1))
        self.path = nn.Sequential(*(PathBlock(site, channels, width) for channels in inputs))

    def count_channels(self, site: SkipSite) -> int:
        """Counts those of the decoder and of the path."""
        return site.channels_upsampled + min(site.channels, site.channels_upsampled)

    def forward(
        self,
        encoded: Float[Tensor, "batch channels *space"],
        upsampled: Float[Tensor, "batch channels_upsampled *space"],
        below: Float[Tensor, "batch channels_below *space_below"],
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Convolves, then concatenates."""
        del below
        return torch.cat((upsampled, self.path(encoded)), dim=1)


class PathBlock(nn.Module):
    """A convolution and one of a single voxel, added, activated and normalized."""

    def __init__(self, site: SkipSite, channels_in: int, channels_out: int) -> None:
        super().__init__()
        one, layers = get_ones(site.kernel), site.layers
        self.convolution = Layer(channels_in, channels_out, site.kernel, layers=layers)
        self.shortcut = Layer(channels_in, channels_out, one, layers=layers, is_activated=False)
        self.activation = build_activation(layers)
        self.norm = build_normalization(layers, channels_out, len(one))

    def forward(
        self, features: Float[Tensor, "batch channels_in *space"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Adds both."""
        normalized: Tensor = self.norm(self.activation(self.convolution(features) + self.shortcut(features)))
        return normalized
