"""Recurrent residual blocks (R2U-Net, Alom et al. 2018, arXiv:1802.06955)."""

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import Layer, build_kernel, get_ones
from autoseg.networks.parts.stage import StageSite, stack_blocks
from autoseg.plan.network.blocks import RecurrentResidualPlan


def build_recurrent_residual_stage(plan: RecurrentResidualPlan, site: StageSite) -> nn.Module:
    """Builds blocks of two recurrent convolutions and a shortcut."""
    return stack_blocks(site, lambda block: RecurrentResidualBlock(plan, block))


class RecurrentResidualBlock(nn.Module):
    """A convolution of one voxel, to whose result that of two recurrent convolutions is added."""

    def __init__(self, plan: RecurrentResidualPlan, site: StageSite) -> None:
        super().__init__()
        self.projection = build_kernel(site.channels_in, site.channels_out, get_ones(site.kernel))
        self.convolutions = nn.Sequential(*(RecurrentConvolution(plan, site) for _ in range(2)))

    def forward(
        self, features: Float[Tensor, "batch channels_in *space"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Projects, then adds what the convolutions compute."""
        projected: Tensor = self.projection(features)
        added: Tensor = projected + self.convolutions(projected)
        return added


class RecurrentConvolution(nn.Module):
    """A convolution that is applied again and again, to the sum of its input and its last result."""

    def __init__(self, plan: RecurrentResidualPlan, site: StageSite) -> None:
        super().__init__()
        self.recurrences = plan.recurrences
        self.layer = Layer(site.channels_out, site.channels_out, site.kernel, layers=site.layers)

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Applies the convolution once, then once per recurrence, with the same weights."""
        result: Tensor = self.layer(features)
        for _ in range(self.recurrences):
            result = self.layer(features + result)
        return result
