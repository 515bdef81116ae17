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
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective

COMPUTED_ON_CPU: Final = frozenset({"border_weighted_cross_entropy", "boundary"})
"""Loss terms that need maps of distances."""


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
