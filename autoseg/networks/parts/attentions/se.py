"""Squeeze and excitation (Hu et al. 2018, arXiv:1709.01507)."""

from collections.abc import Sequence
from typing import Final

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.plan.network.attentions import SqueezeExcitationPlan

FEWEST_HIDDEN: Final = 8
"""Means of normalized channels hardly differ between samples, so that a hidden unit is often 0 for all of them: with
the one or two of 16 and 32 channels, no gradient may reach the weights before them (guess)."""


class SqueezeExcitation(nn.Module):
    """Scales every channel by a weight that is computed from the means of all channels of the sample."""

    def __init__(self, plan: SqueezeExcitationPlan, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        hidden, one = count_hidden(channels, plan.reduction), get_ones(kernel)
        self.squeeze = build_kernel(channels, hidden, one)
        self.activation = nn.ReLU(inplace=True)
        self.excite = build_kernel(hidden, channels, one)

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Scales the channels."""
        means = features.mean(dim=tuple(range(2, features.ndim)), keepdim=True)
        weights: Tensor = self.excite(self.activation(self.squeeze(means)))
        return features * weights.sigmoid()


def count_hidden(channels: int, reduction: int) -> int:
    """Counts the hidden units for a number of channels: at least eight, or as many as there are channels."""
    return max(channels // reduction, min(FEWEST_HIDDEN, channels))
