"""Training of a label autoencoder from label maps alone."""

from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import build_output_masks
from autoseg.training.objectives.objective import NetworkCall, Objective
from autoseg.training.objectives.segmentation import Segmentation


class Reconstruction(Objective):
    """The weighted sum of the loss terms between label maps and their reconstruction; ignored voxels do not count."""

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        self.labels = labels
        self.segmentation = Segmentation(plan, labels, network, part=part, seed=seed)

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once, on label maps in place of images."""
        masks = build_output_masks(batch.label_map, self.labels)
        loss, logits = self.segmentation(network, Batch(image=masks, label_map=batch.label_map))
        return loss, logits
