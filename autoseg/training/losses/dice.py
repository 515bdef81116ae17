"""Soft Dice loss (nnU-Net's, equation by equation)."""

from typing import Final

import torch
from jaxtyping import Float32
from torch import Tensor

from autoseg.plan.losses import DiceTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.targets import Target

SMOOTHING: Final = 1e-5
SMALLEST_DENOMINATOR: Final = 1e-8


def compute_dice(
    term: DiceTerm, logits: Float32[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float32[Tensor, ""]:
    """Computes -mean of (2I + s) / max(G + P + s, 1e-8) over classes (and samples, unless batch_dice).

    I, P, G: sums of probability in the mask, of probability, and of the mask; s = 1e-5. Background is no class.
    """
    probabilities = logits.sigmoid() if target.labels.has_regions else logits.softmax(1)[:, 1:]
    space = tuple(range(2, probabilities.ndim))
    counted = probabilities if target.valid is None else probabilities * target.valid
    truth = target.masks if target.valid is None else target.masks & target.valid
    sums = [(counted * truth).sum(space), counted.sum(space), truth.sum(space, dtype=torch.float32)]
    if term.batch_dice:
        sums = list(part.add_up(torch.stack([value.sum(0) for value in sums])))
    intersection, predicted, present = sums
    denominator = (present + predicted + SMOOTHING).clamp_min(SMALLEST_DENOMINATOR)
    loss = -((2 * intersection + SMOOTHING) / denominator).mean()
    return loss if term.batch_dice else part.add_up(loss * part.share)
