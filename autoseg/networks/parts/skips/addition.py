"""Sum of features."""

from jaxtyping import Float
from torch import Tensor

from autoseg.networks.parts.skips.skip import Skip, SkipSite


class Addition(Skip):
    """The sum of the features of decoder and encoder, which have equally many channels."""

    def count_channels(self, site: SkipSite) -> int:
        """Counts the channels of either."""
        return site.channels

    def forward(
        self,
        encoded: Float[Tensor, "batch channels *space"],
        upsampled: Float[Tensor, "batch channels_upsampled *space"],
        below: Float[Tensor, "batch channels_below *space_below"],
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Adds."""
        del below
        return upsampled + encoded
