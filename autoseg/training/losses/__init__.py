"""Loss terms: one file and one row of `LOSSES` each; their parameters are in `autoseg.plan.losses`."""

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor

from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.cross_entropy import compute_cross_entropy
from autoseg.training.losses.dice import compute_dice
from autoseg.training.losses.targets import Target

LossFunction = Callable[[Any, Tensor, Target, BatchPart], Tensor]
"""Computes, from the planned term, the float32 logits of one resolution, their target, and the part of the batch
that this process sees, the loss of the whole batch: every sum over samples goes through `BatchPart.add_up`."""

LOSSES: Final[dict[str, LossFunction]] = {"dice": compute_dice, "cross_entropy": compute_cross_entropy}
"""By the names of `autoseg.plan.LOSS_TERMS`."""
