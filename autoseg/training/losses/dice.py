"""Soft Dice loss (nnU-Net's, equation by equation), and with squared denominators (Milletari et al. 2016, V-Net)."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from autoseg.plan.losses import DiceTerm, SquaredDiceTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.targets import Target

SMOOTHING: Final = 1e-5
SMALLEST_DENOMINATOR: Final = 1e-8


def compute_dice(
    term: DiceTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes -mean of (2I + s) / max(G + P + s, 1e-8) over classes (and samples, unless batch_dice).

    I, P, G: sums of probability in the mask, of probability, and of the mask; s = 1e-5. Background is no class.
    """
    intersection, predicted, present = sum_overlaps(
        compute_class_probabilities(logits, target), target, part, batch_dice=term.batch_dice
    )
    denominator = (present + predicted + SMOOTHING).clamp_min(SMALLEST_DENOMINATOR)
    loss = -((2 * intersection + SMOOTHING) / denominator).mean()
    return loss if term.batch_dice else part.add_up(loss * part.share)


def compute_squared_dice(
    term: SquaredDiceTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes 1 - mean of (2I + s) / (G + Q + s) over classes (and samples, unless batch_dice).

    Q: sum of squared probability; the rest as in `compute_dice`.
    """
    probabilities = compute_class_probabilities(logits, target)
    intersection, predicted, present = sum_overlaps(probabilities, target, part, batch_dice=term.batch_dice, exponent=2)
    loss = 1 - ((2 * intersection + SMOOTHING) / (present + predicted + SMOOTHING)).mean()
    return loss if term.batch_dice else part.add_up(loss * part.share)


def compute_class_probabilities(
    logits: Float[Tensor, "batch output *space"], target: Target
) -> Float[Tensor, "batch class *space"]:
    """Computes the probability of every class, foreground label or region."""
    return logits.sigmoid() if target.labels.has_regions else logits.softmax(1)[:, 1:]


def sum_overlaps(
    probabilities: Float[Tensor, "batch class *space"],
    target: Target,
    part: BatchPart,
    *,
    batch_dice: bool,
    exponent: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, for every class, probability in the mask, probability (to a power), and the mask over valid voxels.

    The sums are of every sample, or of the whole batch.
    """
    space = tuple(range(2, probabilities.ndim))
    counted = probabilities if target.valid is None else probabilities * target.valid
    truth = target.masks if target.valid is None else target.masks & target.valid
    predicted = counted if exponent == 1 else counted**exponent
    sums = [(counted * truth).sum(space), predicted.sum(space), truth.sum(space, dtype=torch.float32)]
    if batch_dice:
        sums = list(part.add_up(torch.stack([value.sum(0) for value in sums])))
    intersection, predicted, present = sums
    return intersection, predicted, present
