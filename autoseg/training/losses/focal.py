"""Focal loss (Lin et al. 2017)."""

from typing import Final

from jaxtyping import Float
from torch import Tensor

from autoseg.plan.losses import FocalTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.exclusive_classes import (
    average_over_voxels,
    compute_voxel_entropies,
    find_voxel_weights,
)
from autoseg.training.losses.targets import Target

SMALLEST_ERROR: Final = 1e-7  # a power below 1 has no finite derivative at 0


def compute_focal(
    term: FocalTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes the mean of -w (1 - p) ** gamma ln p; w, p: weight and probability of the true class of a voxel."""
    entropies = compute_voxel_entropies(logits, target)
    errors = -(-entropies).expm1()
    factors = errors.clamp_min(SMALLEST_ERROR) ** term.gamma
    return average_over_voxels(find_voxel_weights(term, target) * factors * entropies, target, part)
