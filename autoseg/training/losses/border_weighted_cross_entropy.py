"""Cross entropy with weights of classes, and of background between two objects (Ronneberger et al. 2015, U-Net)."""

from jaxtyping import Float
from torch import Tensor

from autoseg.plan.losses import BorderWeightedCrossEntropyTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.distances import compute_border_exponentials, find_map
from autoseg.training.losses.exclusive_classes import (
    average_over_voxels,
    compute_voxel_entropies,
    find_voxel_weights,
)
from autoseg.training.losses.targets import Target


def compute_border_weighted_cross_entropy(
    term: BorderWeightedCrossEntropyTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes the mean of -(w + w0 exp(-(d1 + d2) ** 2 / (2 sigma ** 2))) ln p over voxels.

    w, p: weight and probability of the true class; d1, d2: distances from the two nearest objects, outside of objects.
    """
    sigma_mm, classes = term.border_sigma_mm, term.object_classes
    between = find_map(
        target, f"borders {sigma_mm} {classes}", lambda: compute_border_exponentials(target, sigma_mm, classes)
    )
    weights = find_voxel_weights(term, target) + term.border_weight * between
    return average_over_voxels(weights * compute_voxel_entropies(logits, target), target, part)
