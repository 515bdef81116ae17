"""Loss terms: one file and one row of `LOSSES` each; their parameters are in `autoseg.plan.losses`."""

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor

from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.border_weighted_cross_entropy import compute_border_weighted_cross_entropy
from autoseg.training.losses.boundary import compute_boundary
from autoseg.training.losses.centre_distance import compute_centre_distance
from autoseg.training.losses.cldice import compute_cldice
from autoseg.training.losses.cross_entropy import compute_cross_entropy
from autoseg.training.losses.dice import compute_dice, compute_squared_dice
from autoseg.training.losses.exponential_logarithmic import compute_exponential_logarithmic
from autoseg.training.losses.focal import compute_focal
from autoseg.training.losses.generalized_dice import compute_generalized_dice
from autoseg.training.losses.targets import Target
from autoseg.training.losses.tversky import compute_tversky
from autoseg.training.losses.weighted_cross_entropy import compute_weighted_cross_entropy

LossFunction = Callable[[Any, Tensor, Target, BatchPart], Tensor]
"""Computes, from the planned term, the float32 logits of one resolution, their target, and the part of the batch
that this process sees, the loss of the whole batch: every sum over samples goes through `BatchPart.add_up`."""

LOSSES: Final[dict[str, LossFunction]] = {
    "dice": compute_dice,
    "cross_entropy": compute_cross_entropy,
    "weighted_cross_entropy": compute_weighted_cross_entropy,
    "focal": compute_focal,
    "border_weighted_cross_entropy": compute_border_weighted_cross_entropy,
    "squared_dice": compute_squared_dice,
    "generalized_dice": compute_generalized_dice,
    "tversky": compute_tversky,
    "exponential_logarithmic": compute_exponential_logarithmic,
    "boundary": compute_boundary,
    "cldice": compute_cldice,
    "centre_distance": compute_centre_distance,
}
"""By the names of `autoseg.plan.LOSS_TERMS`."""
