"""Supervised segmentation: the planned loss terms compare logits and labels at every supervised resolution.

An output for edges has a loss of its own.
"""

from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective


class Segmentation(Objective):
    """The weighted sum of the loss terms over all outputs; it has no parameters and no state."""

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del seed
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.spacing_mm, part=part)
        self.output_weights, self.output_targets = network.output_weights, network.output_targets

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once."""
        outputs = network(batch.image)
        loss = self.loss(
            outputs,
            batch.label_map,
            self.output_weights,
            output_targets=self.output_targets,
            progress=self.progress,
        )
        return loss, outputs[0]
