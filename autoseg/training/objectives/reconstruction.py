"""Training of a label autoencoder from label maps alone."""

from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import build_output_masks, fill_ignored_voxels
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective


class Reconstruction(Objective):
    """The weighted sum of the loss terms between label maps and their reconstruction.

    Ignored voxels do not count; the network sees them with the label of the nearest one.
    """

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del network, seed
        self.labels = labels
        self.spacing_mm = plan.patch_spacing_mm
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.patch_spacing_mm, part=part)

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once, on label maps in place of images."""
        filled = fill_ignored_voxels(batch.label_map, self.labels, spacing_mm=self.spacing_mm)
        logits = network(build_output_masks(filled, self.labels))[0]
        return self.loss((logits,), batch.label_map, (1.0,), progress=self.progress), logits
