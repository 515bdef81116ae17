"""Networks of two branches, one for slices and one for volumes (Li et al. 2018, arXiv:1709.07330)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import build_head
from autoseg.networks.families.encoder_u import EncoderUNetwork
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.network.encoder_u import EncoderUPlan
from autoseg.plan.network.hybrid import HybridPlan


class HybridNetwork(SegmentationNetwork):
    """Adds the features of a volume to those of its slices.

    The head computes the logits of the 2D branch, whose probabilities the 3D branch sees, and those of the sum. Weights
    of images and of volumes have no memory format in common, so prediction with fewer bits is by autocast.
    """

    plan: HybridPlan

    def __init__(self, plan: HybridPlan) -> None:
        super().__init__(plan)
        self.slices = build_branch(plan.slice_branch)
        self.volumes = build_branch(plan.volume_branch)
        self.head = build_head(plan.slices.decoder_features_per_stage[-1], plan.output_channels, plan.dimensions)

    def forward(self, image: Float[Tensor, "batch channel z y x"]) -> tuple[Float[Tensor, "batch output z y x"], ...]:
        """Computes logits."""
        folded = image.transpose(1, 2).flatten(0, 1)
        (flat,) = self.slices(folded)
        features = flat.unflatten(0, (image.shape[0], image.shape[2])).transpose(1, 2)
        probabilities = self._compute_probabilities(self.head(features)).to(image.dtype)
        (volume,) = self.volumes(torch.cat((image, probabilities), dim=1))
        logits: Tensor = self.head(features + volume)
        return (logits,)

    def _compute_probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1) if self.plan.probabilities == "softmax" else logits.sigmoid()

    @property
    def output_weights(self) -> tuple[float, ...]:
        """There is one output."""
        return (1.0,)


def build_branch(plan: EncoderUPlan) -> EncoderUNetwork:
    """Builds a network that gives features instead of logits."""
    branch = EncoderUNetwork(plan)
    branch.head = nn.Identity()
    return branch
