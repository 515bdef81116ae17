"""Dice of random validation patches: cheap, biased, and good enough to watch a training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int16, Int64
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.runtime.distributed import WHOLE_BATCH, BatchPart
from autoseg.training.losses.targets import build_class_masks, crop_label_map, find_valid_voxels

OLD_WEIGHT: Final = 0.9  # of the moving average, as in the reference implementation


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapCounts:
    """Voxels per class."""

    true_positive: Int64[Tensor, " class"]
    false_positive: Int64[Tensor, " class"]
    false_negative: Int64[Tensor, " class"]

    def add_up(self, part: BatchPart) -> "OverlapCounts":
        """Sums the counts over all parts of the batch."""
        return OverlapCounts(
            true_positive=part.add_up(self.true_positive),
            false_positive=part.add_up(self.false_positive),
            false_negative=part.add_up(self.false_negative),
        )


def count_overlaps(
    logits: Float[Tensor, "batch output *space"], label_map: Int16[Tensor, " batch ..."], labels: LabelScheme
) -> OverlapCounts:
    """Counts the voxels of the whole batch that the logits cover, without ignored ones."""
    label_map = crop_label_map(label_map, logits.shape[2:])
    truth, predicted = build_class_masks(label_map, labels), predict_class_masks(logits, labels)
    valid = find_valid_voxels(label_map, labels)
    if valid is not None:
        truth, predicted = truth & valid, predicted & valid
    summed = (0, *range(2, truth.ndim))
    return OverlapCounts(
        true_positive=(truth & predicted).sum(summed),
        false_positive=(predicted & ~truth).sum(summed),
        false_negative=(truth & ~predicted).sum(summed),
    )


def predict_class_masks(
    logits: Float[Tensor, "batch output *space"], labels: LabelScheme
) -> Bool[Tensor, "batch class *space"]:
    """Predicts the regions with a probability above one half, or the most probable label."""
    if labels.has_regions:
        return logits > 0
    winners = logits.argmax(1)
    return torch.stack([winners == label for label in labels.foreground_labels], dim=1)


def compute_pseudo_dice(batches: Sequence[OverlapCounts], part: BatchPart = WHOLE_BATCH) -> tuple[float | None, ...]:
    """Computes 2TP / (2TP + FP + FN) per class from the summed counts; None for a class without any voxel.

    Args:
        batches: The counts of each batch.
        part: The part of every batch that was counted; the counts of all batches are summed over the parts at once.
    """
    twice = 2 * torch.stack([counts.true_positive for counts in batches]).sum(0)
    wrong = torch.stack([counts.false_positive + counts.false_negative for counts in batches]).sum(0)
    hits, voxels = part.add_up(torch.stack((twice, twice + wrong))).tolist()
    return tuple(hit / total if total else None for hit, total in zip(hits, voxels, strict=True))


def compute_mean_dice(dice: Sequence[float | None]) -> float | None:
    """Computes the mean over the classes that have a value."""
    values = [value for value in dice if value is not None]
    return sum(values) / len(values) if values else None


def update_moving_average(old: float | None, new: float | None) -> float | None:
    """Computes 0.9 old + 0.1 new; the first value as it is; unchanged without a new one."""
    if old is None or new is None:
        return new if old is None else old
    return OLD_WEIGHT * old + (1 - OLD_WEIGHT) * new
