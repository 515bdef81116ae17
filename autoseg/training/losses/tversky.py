"""Tversky loss (Salehi et al. 2017) and focal Tversky loss (Abraham and Khan 2019)."""

from typing import Final

from jaxtyping import Float
from torch import Tensor

from autoseg.plan.losses import TverskyTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.dice import compute_class_probabilities, sum_overlaps
from autoseg.training.losses.targets import Target

SMOOTHING: Final = 1e-6
SMALLEST_LOSS: Final = 1e-7  # a power below 1 has no finite derivative at 0


def compute_tversky(
    term: TverskyTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes the mean of (1 - (TP + s) / (TP + alpha FP + beta FN + s)) ** exponent over classes.

    And over samples, unless batch_dice. TP, FP, FN: sums of probability in the mask, of probability outside it, and of
    what is missing in the mask; s = 1e-6. Background is no class.
    """
    hit, predicted, present = sum_overlaps(
        compute_class_probabilities(logits, target), target, part, batch_dice=term.batch_dice
    )
    errors = term.false_positive_weight * (predicted - hit) + term.false_negative_weight * (present - hit)
    loss = errors / (hit + errors + SMOOTHING)
    mean = (loss.clamp_min(SMALLEST_LOSS) ** term.exponent).mean()
    return mean if term.batch_dice else part.add_up(mean * part.share)
