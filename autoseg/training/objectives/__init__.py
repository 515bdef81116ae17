"""Objectives of training: one file and one row of `OBJECTIVES` each; their parameters are in `autoseg.plan.losses`."""

from typing import Final, Protocol

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.distributed import BatchPart
from autoseg.training.objectives.adversarial import Adversarial
from autoseg.training.objectives.denoising import Denoising
from autoseg.training.objectives.detection import Detection
from autoseg.training.objectives.image_denoising import ImageDenoising
from autoseg.training.objectives.latent_estimation import LatentEstimation
from autoseg.training.objectives.object_detection import ObjectDetection
from autoseg.training.objectives.objective import Objective
from autoseg.training.objectives.point_rendering import PointRendering
from autoseg.training.objectives.reconstruction import Reconstruction
from autoseg.training.objectives.segmentation import Segmentation
from autoseg.training.objectives.shape_prior import ShapePrior


class ObjectiveBuilder(Protocol):
    """Builds an objective, whose own parameters are in `plan.training.objective`."""

    def __call__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> Objective:
        """Builds the objective; it may read properties of the network (such as output weights), not call or keep it."""
        ...


OBJECTIVES: Final[dict[str, ObjectiveBuilder]] = {
    "segmentation": Segmentation,
    "reconstruction": Reconstruction,
    "latent_diffusion": LatentEstimation,
    "denoising": Denoising,
    "image_denoising": ImageDenoising,
    "shape_prior": ShapePrior,
    "adversarial": Adversarial,
    "point_rend": PointRendering,
    "detection": Detection,
    "mask_rcnn": ObjectDetection,
}
"""By the names of `autoseg.plan.OBJECTIVE_PLANS`."""


def build_objective(
    plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
) -> Objective:
    """Builds the planned objective.

    Args:
        plan: Configuration with the losses.
        labels: Labels of the data.
        network: Network to train.
        part: The part of every batch that this process sees.
        seed: Seed of the training.
    """
    return OBJECTIVES[plan.training.objective.name](plan, labels, network, part=part, seed=seed)
