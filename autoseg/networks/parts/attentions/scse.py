"""Concurrent spatial and channel excitation (scSE, Roy et al. 2018, arXiv:1803.02579)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.attentions.se import SqueezeExcitation
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.plan.network.attentions import ConcurrentExcitationPlan, SqueezeExcitationPlan


class ConcurrentExcitation(nn.Module):
    """Adds features whose channels are scaled to features whose voxels are."""

    def __init__(self, plan: ConcurrentExcitationPlan, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.channels = SqueezeExcitation(SqueezeExcitationPlan(reduction=plan.reduction), channels, kernel)
        self.voxels = build_kernel(channels, 1, get_ones(kernel))

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Scales in both ways, then adds."""
        weights: Tensor = self.voxels(features)
        scaled: Tensor = self.channels(features)
        return scaled + features * weights.sigmoid()
