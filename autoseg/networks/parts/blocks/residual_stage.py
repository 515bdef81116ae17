"""A stage with one shortcut (V-Net, Milletari et al. 2016, arXiv:1606.04797)."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import Layer, build_activation, build_shortcut
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import ResidualStagePlan


class ResidualStage(nn.Module):
    """Convolutions, to the last of which the input of the stage is added before its activation."""

    def __init__(self, plan: ResidualStagePlan, site: StageSite) -> None:
        super().__init__()
        del plan
        last = site.block_count - 1
        self.convolutions = nn.Sequential(
            *(
                Layer(below, above, site.kernel, layers=site.layers, is_activated=index < last)
                for index, (below, above) in enumerate(pairwise(site.channels))
            )
        )
        self.shortcut = build_shortcut(site.channels_in, site.channels_out, site.kernel, layers=site.layers)
        self.activation = build_activation(site.layers)

    def forward(
        self, features: Float[Tensor, "batch channels_in *space"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Adds the shortcut, then activates."""
        activated: Tensor = self.activation(self.convolutions(features) + self.shortcut(features))
        return activated
