"""Residual blocks (He et al. 2016, arXiv:1512.03385)."""

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import Layer, build_activation, build_shortcut
from autoseg.networks.parts.stage import StageSite, stack_blocks
from autoseg.plan.network.blocks import ResidualBlockPlan


def build_residual_stage(plan: ResidualBlockPlan, site: StageSite) -> nn.Module:
    """Builds blocks of two convolutions and a shortcut."""
    del plan
    return stack_blocks(site, TwoConvolutions)


class TwoConvolutions(nn.Module):
    """Two convolutions, to which the input is added before the last activation.

    The shortcut is the identity, or a convolution of one voxel where the number of channels changes.
    """

    def __init__(self, site: StageSite) -> None:
        super().__init__()
        self.first = Layer(site.channels_in, site.channels_out, site.kernel, layers=site.layers)
        self.second = Layer(site.channels_out, site.channels_out, site.kernel, layers=site.layers, is_activated=False)
        self.shortcut = build_shortcut(site.channels_in, site.channels_out, site.kernel, layers=site.layers)
        self.activation = build_activation(site.layers)

    def forward(
        self, features: Float[Tensor, "batch channels_in *space"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Adds the shortcut, then activates."""
        activated: Tensor = self.activation(self.second(self.first(features)) + self.shortcut(features))
        return activated
