"""Sum of features."""

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.layers import build_kernel
from autoseg.networks.parts.skips.skip import Skip, SkipSite
from autoseg.plan.network.skips import AdditionPlan


class Addition(Skip):
    """The sum of the features of decoder and encoder.

    Where upsampling or a block left another number of channels, a convolution of one voxel brings those of the decoder
    to those of the encoder.
    """

    def __init__(self, plan: AdditionPlan, site: SkipSite) -> None:
        super().__init__(plan, site)
        ones = (1,) * site.dimensions
        is_equal = site.channels_upsampled == site.channels
        self.projection = nn.Identity() if is_equal else build_kernel(site.channels_upsampled, site.channels, ones)

    def count_channels(self, site: SkipSite) -> int:
        """Counts the channels of the encoder."""
        return site.channels

    def forward(
        self,
        encoded: Float[Tensor, "batch channels *space"],
        upsampled: Float[Tensor, "batch channels_upsampled *space"],
        below: Float[Tensor, "batch channels_below *space_below"],
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Adds."""
        del below
        added: Tensor = self.projection(upsampled) + encoded
        return added
