"""Spatial and channel attention, multiplied (Sun et al. 2020, arXiv:2001.07645)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.attentions.se import SqueezeExcitation
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.plan.network.attentions import DualExcitationPlan, SqueezeExcitationPlan


class DualExcitation(nn.Module):
    """Scales every channel by its weight, and every voxel by one plus its weight, so that none is taken away."""

    def __init__(self, plan: DualExcitationPlan, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        hidden, one = max(1, channels // 2), get_ones(kernel)
        self.channels = SqueezeExcitation(SqueezeExcitationPlan(reduction=plan.reduction), channels, kernel)
        self.reduction = build_kernel(channels, hidden, one)
        self.activation = nn.LeakyReLU(inplace=True)
        self.voxels = build_kernel(hidden, 1, one)

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Scales in both ways."""
        weights: Tensor = self.voxels(self.activation(self.reduction(features)))
        scaled: Tensor = self.channels(features)
        return scaled * (1 + weights.sigmoid())
