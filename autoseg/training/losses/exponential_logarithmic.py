"""Exponential logarithmic loss (Wong et al. 2018)."""

from typing import Final

from jaxtyping import Float
from torch import Tensor

from autoseg.plan.losses import ExponentialLogarithmicTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.exclusive_classes import (
    average_over_voxels,
    compute_voxel_entropies,
    find_voxel_weights,
    sum_class_overlaps,
)
from autoseg.training.losses.targets import Target

SMOOTHING: Final = 1e-6
SMALLEST_LOGARITHM: Final = 1e-7  # a power below 1 has no finite derivative at 0


def compute_exponential_logarithmic(
    term: ExponentialLogarithmicTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes a mean((-ln Dice) ** b) over classes, background included, plus c mean(w (-ln p) ** d) over voxels.

    a, b: weight and exponent of the part made from Dice, c, d: of that made from cross entropy; w, p: weight and
    probability of the true class of a voxel.
    """
    overlaps = _compute_dice_part(term, logits, target, part)
    entropies = compute_voxel_entropies(logits, target).clamp_min(SMALLEST_LOGARITHM) ** term.cross_entropy_exponent
    mean = average_over_voxels(find_voxel_weights(term, target) * entropies, target, part)
    return term.dice_weight * overlaps + term.cross_entropy_weight * mean


def _compute_dice_part(term: ExponentialLogarithmicTerm, logits: Tensor, target: Target, part: BatchPart) -> Tensor:
    intersection, predicted, present = sum_class_overlaps(logits, target, part, batch_dice=term.batch_dice)
    dice = (2 * intersection + SMOOTHING) / (predicted + present + SMOOTHING)
    mean = ((-dice.log()).clamp_min(SMALLEST_LOGARITHM) ** term.dice_exponent).mean()
    return mean if term.batch_dice else part.add_up(mean * part.share)
