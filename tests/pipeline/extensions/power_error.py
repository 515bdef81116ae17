"""A loss term: a power of the difference between probability and truth."""

from typing import Literal

from jaxtyping import Float32
from torch import Tensor

from autoseg.plan.losses import LossTerm
from autoseg.plan.values import Positive
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.targets import Target


class PowerErrorTerm(LossTerm):
    name: Literal["power_error"] = "power_error"
    exponent: Positive


def compute_power_error(
    term: PowerErrorTerm, logits: Float32[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float32[Tensor, ""]:
    probabilities = logits.sigmoid() if target.labels.has_regions else logits.softmax(1)[:, 1:]
    errors = (probabilities - target.masks.float()).abs() ** term.exponent
    if target.valid is not None:
        errors = errors * target.valid
    return part.add_up(errors.mean() * part.share)
