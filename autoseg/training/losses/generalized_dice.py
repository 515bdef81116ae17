"""Generalized Dice loss (Sudre et al. 2017)."""

import torch
from jaxtyping import Float
from torch import Tensor

from autoseg.plan.losses import GeneralizedDiceTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.exclusive_classes import sum_class_overlaps
from autoseg.training.losses.targets import Target


def compute_generalized_dice(
    term: GeneralizedDiceTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes 1 - 2 sum(w I) / sum(w (P + G)) over classes, background included; the mean over regions, if any.

    I, P, G: sums of probability in the mask, of probability, and of the mask; w = 1 / G ** 2, and 0 for classes that
    are absent from the sample (or batch, with batch_dice). The weights are divided by the largest one, or they would
    leave the range of float32.
    """
    intersection, predicted, present = sum_class_overlaps(logits, target, part, batch_dice=term.batch_dice)
    smallest = present.where(present > 0, torch.inf).amin(-1, keepdim=True)
    weights = torch.where(present > 0, (smallest / present.clamp_min(1)) ** 2, 0)
    total = (weights * (predicted + present)).sum(-1).clamp_min(1)  # below 1 only where every voxel is ignored
    mean = (1 - 2 * (weights * intersection).sum(-1) / total).mean()
    return mean if term.batch_dice else part.add_up(mean * part.share)
