"""Cross entropy with weights of classes; balanced where the weights are the shares of all other classes."""

from jaxtyping import Float
from torch import Tensor

from autoseg.plan.losses import WeightedCrossEntropyTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.exclusive_classes import (
    average_over_voxels,
    compute_voxel_entropies,
    find_voxel_weights,
)
from autoseg.training.losses.targets import Target


def compute_weighted_cross_entropy(
    term: WeightedCrossEntropyTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes the mean of -w ln p over voxels (and regions, if any); w, p: weight, probability of the true class."""
    weights = find_voxel_weights(term, target)
    return average_over_voxels(weights * compute_voxel_entropies(logits, target), target, part)
