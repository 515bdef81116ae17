"""Boundary loss (Kervadec et al. 2019)."""

from jaxtyping import Float
from torch import Tensor

from autoseg.plan.losses import BoundaryTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.dice import compute_class_probabilities
from autoseg.training.losses.distances import compute_signed_distances_mm, find_map
from autoseg.training.losses.exclusive_classes import average_over_voxels
from autoseg.training.losses.targets import Target


def compute_boundary(
    term: BoundaryTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes the mean of probability times signed distance in mm, over voxels and classes; background is no class."""
    del term
    distances_mm = find_map(target, "signed distances", lambda: compute_signed_distances_mm(target))
    return average_over_voxels(compute_class_probabilities(logits, target) * distances_mm, target, part)
