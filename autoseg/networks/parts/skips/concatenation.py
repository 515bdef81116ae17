"""Concatenation of channels."""

import torch
from jaxtyping import Float
from torch import Tensor

from autoseg.networks.parts.skips.skip import Skip


class Concatenation(Skip):
    """The channels of the decoder, then those of the encoder."""

    def forward(
        self,
        encoded: Float[Tensor, "batch channels *space"],
        upsampled: Float[Tensor, "batch channels_upsampled *space"],
        below: Float[Tensor, "batch channels_below *space_below"],
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Concatenates."""
        del below
        return torch.cat((upsampled, encoded), dim=1)
