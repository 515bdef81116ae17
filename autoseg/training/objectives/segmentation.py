"""Supervised segmentation: the planned loss terms compare logits and labels at every supervised resolution.

An output for edges has a loss of its own.
"""

from typing import Final

from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import crop_label_map, find_valid_voxels
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.distillation import compare_distributions, compare_scores
from autoseg.training.objectives.objective import NetworkCall, Objective

COMPUTED_ON_CPU: Final = frozenset({"border_weighted_cross_entropy", "boundary"})
"""Loss terms that need maps of distances."""
TEACHER_TEMPERATURE: Final = 2.0
"""Logits of a teacher are divided by it (guess, of the usual 1 to 4: two to some ten classes)."""


class Segmentation(Objective):
    """The weighted sum of the loss terms over all outputs; it has no parameters and no state."""

    loss: WeightedLoss

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del seed
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.patch_spacing_mm, part=part)
        self.output_weights, self.output_targets = network.output_weights, network.output_targets
        self.labels, self.part = labels, part

    def find_capture_problem(self) -> str | None:
        """Finds loss terms whose weight changes over the training, or that need the CPU."""
        for term in self.loss.terms:
            if term.name in COMPUTED_ON_CPU:
                return f"the loss term {term.name} computes distances on the CPU"
            if term.compute_weight(0.0) != term.compute_weight(1.0):
                return f"the weight of the loss term {term.name} changes from step to step"
        return None

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once."""
        outputs = network(batch.image)
        return self.compute_terms(outputs, batch), outputs[0]

    def compare_with_teacher(self, found: tuple[Tensor, ...], taught: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Computes the mean divergence of the first output in all voxels of the batch but ignored ones."""
        logits = found[0], taught[0]
        if self.labels.has_regions:
            difference = compare_scores(*logits, TEACHER_TEMPERATURE).mean(dim=1, keepdim=True)
        else:
            own, other = (values.movedim(1, -1) for values in logits)
            difference = compare_distributions(own, other, TEACHER_TEMPERATURE)[:, None]
        valid = find_valid_voxels(crop_label_map(batch.label_map, difference.shape[2:]), self.labels)
        if valid is None:
            return self.part.add_up(difference.mean() * self.part.share)
        voxels = self.part.add_up(valid.sum().float())
        return self.part.add_up((difference * valid).sum()) / voxels.clamp(min=1)
