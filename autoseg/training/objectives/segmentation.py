"""Segmentation as usual: the planned loss terms compare logits and labels at every supervised resolution."""

from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks import SegmentationNetwork
from autoseg.plan import TrainingPlan
from autoseg.training.batch import Batch, BatchPart
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective


class Segmentation(Objective):
    """The weighted sum of the loss terms over all outputs; it has no parameters and no state."""

    def __init__(
        self, plan: TrainingPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del seed
        self.loss = WeightedLoss(terms=plan.losses, labels=labels, part=part)
        self.output_weights = find_output_weights(network)

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once."""
        outputs = network(batch.image)
        return self.loss(outputs, batch.label_map, self.output_weights), outputs[0]


def find_output_weights(network: SegmentationNetwork) -> tuple[float, ...]:
    """How much the loss of each output counts, most important first."""
    return compute_output_weights(network.supervised_level_count if network.deep_supervision else 1)


def compute_output_weights(output_count: int) -> tuple[float, ...]:
    """1, 1/2, 1/4, ... normalized to a sum of 1; a single output has weight 1.

    The reference has one output more, of the lowest decoder resolution, and gives it weight 0; our networks do not
    compute it. (With two stages that rule leaves the reference only a zero to normalize: its loss is NaN.)
    """
    raw = [0.5**index for index in range(output_count)]
    return tuple(weight / sum(raw) for weight in raw)
