"""The anatomical constraint of label autoencoders (Oktay et al. 2018, arXiv:1705.08302)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.families.label_autoencoder import LabelAutoencoder
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.objectives import ShapePriorObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.runtime.precision import autocast
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import build_output_masks, fill_ignored_voxels, find_valid_voxels
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective


class ShapePrior(Objective):
    """The loss of a segmentation, and the difference between latents of the probabilities and of the labels.

    The autoencoder is no part of the state: it is trained before, and never changes. Final checkpoints hold it, too.
    """

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del seed
        assert isinstance(plan.training.objective, ShapePriorObjective), "the table of objectives says so"
        self.weight, self.labels, self.part = plan.training.objective.shape_prior_weight, labels, part
        self.spacing_mm = plan.patch_spacing_mm
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.patch_spacing_mm, part=part)
        self.output_weights, self.output_targets = network.output_weights, network.output_targets
        with torch.random.fork_rng(devices=[]):  # the network draws the same numbers with and without the prior
            autoencoder = LabelAutoencoder(plan.training.objective.autoencoder)
        self._frozen = (autoencoder.requires_grad_(requires_grad=False).eval(),)  # a tuple hides it from the state

    def load_label_autoencoder(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the weights of the autoencoder."""
        self._frozen[0].load_state_dict(weights)

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once."""
        outputs = network(batch.image)
        loss = self.compute_terms(outputs, batch)
        if self.weight > 0:
            loss = loss + self.weight * self._compare_shapes(outputs[0].float(), batch.label_map)
        return loss, outputs[0]

    def _compare_shapes(self, logits: Tensor, label_map: Tensor) -> Tensor:
        """Computes the mean squared difference of latents; ignored voxels are taken to be predicted perfectly."""
        autoencoder = self._frozen[0].to(logits.device)
        masks = build_output_masks(fill_ignored_voxels(label_map, self.labels, spacing_mm=self.spacing_mm), self.labels)
        probabilities = logits.sigmoid() if self.labels.has_regions else logits.softmax(dim=1)
        valid = find_valid_voxels(label_map, self.labels)
        if valid is not None:
            probabilities = torch.where(valid, probabilities, masks)
        with autocast(logits.device, self.dtype):
            latents = [autoencoder.encode(each).float() for each in (probabilities, masks)]
        return self.part.add_up((latents[0] - latents[1]).square().mean() * self.part.share)
