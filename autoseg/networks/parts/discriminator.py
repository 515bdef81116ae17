"""The network that tells label maps from predictions (Goodfellow et al. 2014; Luc et al. 2016, arXiv:1611.08408)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import NEGATIVE_SLOPE
from autoseg.networks.parts.layers import build_kernel, get_ones


class Discriminator(nn.Module):
    """Convolutions with strides, then one logit for each block of voxels: above 0 for a label map.

    There is no normalization: a patch may have a single voxel left.
    """

    def __init__(self, channels: int, features: Sequence[int], strides: Sequence[Sequence[int]]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, stride in zip(features, strides, strict=True):
            kernel = tuple(2 * step - 1 for step in stride)
            layers += [
                build_kernel(channels, width, kernel, stride=tuple(stride)),
                nn.LeakyReLU(NEGATIVE_SLOPE),
            ]
            channels = width
        self.layers = nn.Sequential(*layers, build_kernel(channels, 1, get_ones(strides[0])))

    def forward(
        self, image: Float[Tensor, "batch channel *space"], probabilities: Float[Tensor, "batch output *space"]
    ) -> Float[Tensor, "batch 1 ..."]:
        """Computes the logits of an image beside a label map or the probabilities of a prediction."""
        logits: Tensor = self.layers(torch.cat((image, probabilities), dim=1))
        return logits
