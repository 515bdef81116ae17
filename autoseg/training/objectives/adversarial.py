"""Segmentation against a discriminator, which tells label maps from predictions (Luc et al. 2016, arXiv:1611.08408)."""

from typing import Final

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import softplus

from autoseg.geometry import locate_centre
from autoseg.labels import LabelScheme
from autoseg.networks.initialization import initialize_weights
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.discriminator import Discriminator
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.objectives import AdversarialObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import build_output_masks, crop_label_map, find_valid_voxels
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective

SURENESS: Final = 0.9
"""Least probability of the true class in what stands for a label map; 1 would tell it from any prediction."""


class Adversarial(Objective):
    """The loss of a segmentation, and the cross entropy of a prediction that is to be taken for a label map.

    The discriminator learns in the same step, from gradients of its own cross entropy, which does not count in the
    value of the loss. With weight 0 there is none.

    Attributes:
        decisions: Sum over the iterations of this epoch of the share of right decisions, and their number.
    """

    decisions: Tensor

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        assert isinstance(plan.training.objective, AdversarialObjective), "the table of objectives says so"
        own = plan.training.objective
        self.weight, self.labels, self.part = own.adversarial_weight, labels, part
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.patch_spacing_mm, part=part)
        self.output_weights, self.output_targets = network.output_weights, network.output_targets
        if self.weight > 0:
            channels = plan.network.input_channels + plan.network.output_channels
            with torch.random.fork_rng(devices=[]):  # the network draws the same numbers with and without it
                self.discriminator = Discriminator(channels, own.discriminator_features, own.discriminator_strides)
            initialize_weights(self.discriminator, torch.Generator().manual_seed(seed))
            self.register_buffer("decisions", torch.zeros(2))

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once."""
        outputs = network(batch.image)
        loss = self.compute_terms(outputs, batch)
        if self.weight > 0:
            loss = loss + self._compete(outputs[0].float(), batch)
        return loss, outputs[0]

    def summarize_epoch(self) -> dict[str, float]:
        """Returns the share of right decisions, and counts anew."""
        if self.weight == 0:
            return {}
        total, count = self.decisions.tolist()
        self.decisions.zero_()
        return {"discriminator_accuracy": total / count} if count else {}

    def _compete(self, logits: Tensor, batch: Batch) -> Tensor:
        """Computes the weighted loss of the network, with the gradients of the discriminator beside it."""
        image, found, true = self._build_inputs(logits, batch)
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        deceiving = softplus(-functional_call(self.discriminator, frozen, (image, found)))
        of_found, of_true = self.discriminator(image, found.detach()), self.discriminator(image, true.detach())
        if self.training:
            self._count(of_found, of_true)
        learning = self._average(softplus(of_found)) + self._average(softplus(-of_true))
        return self.weight * self._average(deceiving) + learning - learning.detach()

    def _build_inputs(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Builds what the discriminator sees: image, probabilities, and what stands for the label map, each of the
        middle that the network covers and nothing in ignored voxels."""
        extents = logits.shape[2:]
        label_map = crop_label_map(batch.label_map, extents)
        inside = (slice(None), slice(None), *locate_centre(batch.image.shape[2:], extents))
        masks = build_output_masks(label_map, self.labels)
        found = logits.sigmoid() if self.labels.has_regions else logits.softmax(dim=1)
        true = soften(masks, found, has_regions=self.labels.has_regions)
        valid = find_valid_voxels(label_map, self.labels)
        if valid is not None:
            found, true = found * valid, true * valid
        return batch.image[inside], found, true

    def _average(self, values: Tensor) -> Tensor:
        return self.part.add_up(values.mean() * self.part.share)

    @torch.no_grad()
    def _count(self, of_found: Tensor, of_true: Tensor) -> None:
        right = self._average(torch.cat((of_found <= 0, of_true > 0)).float())
        self.decisions += torch.stack((right, torch.ones_like(right)))


@torch.no_grad()
def soften(masks: Tensor, found: Tensor, *, has_regions: bool) -> Tensor:
    """Returns probabilities like those of a prediction that is right in every voxel ("scaling" of Luc et al. 2016).

    The true class has that of the prediction, but at least 0.9; the others share the rest as they do there. Of regions,
    each is predicted by itself.

    Args:
        masks: One per output.
        found: Probabilities of the prediction.
        has_regions: Whether outputs are independent.
    """
    if has_regions:
        return torch.where(masks > 0, found.clamp(min=SURENESS), found.clamp(max=1 - SURENESS))
    right = (masks * found).sum(1, keepdim=True)
    raised = right.clamp(min=SURENESS)
    others = found * ((1 - raised) / (1 - right).clamp(min=torch.finfo(found.dtype).eps))
    return torch.where(masks > 0, raised, others)
