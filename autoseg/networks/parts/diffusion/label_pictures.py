"""Pictures that stand for label maps, for autoencoders of pictures."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.plan.network.label_autoencoder import LabelPicturesPlan

SURENESS: Final = 4.0
"""Logit of a voxel of exactly its colour, against the nearest other one (guess): a probability of 0.98."""


class LabelPictures(nn.Module):
    """Paints label maps, and tells their outputs from pictures; nothing in it is trained.

    Attributes:
        colours: One row per output.
    """

    colours: Tensor

    def __init__(self, plan: LabelPicturesPlan) -> None:
        super().__init__()
        self.has_regions = plan.kind == "regions"
        colours = torch.tensor(plan.colours, dtype=torch.float32, device="cpu")
        self.factor = SURENESS if len(colours) == 1 or self.has_regions else SURENESS / _find_least_distance(colours)
        self.register_buffer("colours", torch.tensor(plan.colours, dtype=torch.float32), persistent=False)

    def paint(self, masks: Float[Tensor, "batch output *space"]) -> Float[Tensor, "batch 3 *space"]:
        """Paints label maps; a mixture of outputs gets the mixture of their colours."""
        colours = self.colours.to(masks.dtype)
        if self.has_regions:
            return torch.einsum("bo...,oc->bc...", masks, colours + 1) - 1
        return torch.einsum("bo...,oc->bc...", masks, colours)

    def find_logits(self, picture: Float[Tensor, "batch 3 *space"]) -> Float[Tensor, "batch output *space"]:
        """Finds the logits of the outputs: the nearer a colour, the higher that of its label; of a region, the mean of
        its channels."""
        colours = self.colours.to(picture.dtype)
        if self.has_regions:
            own = (colours > -1).to(picture.dtype)
            return self.factor * torch.einsum("bc...,oc->bo...", picture, own / own.sum(1, keepdim=True))
        axes = (1,) * (picture.ndim - 2)
        products = torch.einsum("bc...,oc->bo...", picture, 2 * colours)  # the square of the picture is that of all
        return self.factor * (products - colours.square().sum(1).reshape(1, -1, *axes))


def _find_least_distance(colours: Float[Tensor, "output 3"]) -> float:
    """Finds the square of the distance of the two nearest colours."""
    return float(torch.pdist(colours).square().min())
