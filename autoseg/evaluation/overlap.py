"""Voxel counts of a class in prediction and reference, and overlap metrics computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer

from autoseg.errors import EvaluationError


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelCounts:
    """Numbers of voxels that belong to a class in prediction, reference, both or neither."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def predicted(self) -> int:
        """Number of voxels of the class in the prediction."""
        return self.true_positives + self.false_positives

    @property
    def in_reference(self) -> int:
        """Number of voxels of the class in the reference."""
        return self.true_positives + self.false_negatives

    @property
    def dice(self) -> float | None:
        """Dice coefficient 2 TP / (2 TP + FP + FN); None if the class is in neither."""
        total = self.predicted + self.in_reference
        return 2 * self.true_positives / total if total else None

    @property
    def iou(self) -> float | None:
        """Jaccard index TP / (TP + FP + FN); None if the class is in neither."""
        union = self.predicted + self.false_negatives
        return self.true_positives / union if union else None

    @property
    def volume_overlap_error(self) -> float | None:
        """Volumetric overlap error (VOE) 1 - IoU; None if the class is in neither."""
        return None if self.iou is None else 1 - self.iou


def count_confusion(
    prediction: Integer[np.ndarray, "z y x"],
    reference: Integer[np.ndarray, "z y x"],
    *,
    label_count: int,
    total_voxels: int,
) -> Int64[np.ndarray, "predicted reference"]:
    """Counts the voxels of every pair of labels, slice by slice so that no large copy is made.

    Args:
        label_count: Number of labels, 0 to `label_count` - 1.
        total_voxels: Number of voxels of the whole case. The arrays may be a part of it, the rest of which is
            background in both, or contain further background voxels that are not counted.

    Raises:
        EvaluationError: A label is negative or not below `label_count`.
    """
    _check_labels(prediction, "prediction", label_count=label_count)
    _check_labels(reference, "reference", label_count=label_count)
    counts = np.zeros(label_count**2, dtype=np.int64)
    for predicted, referenced in zip(prediction, reference, strict=True):
        pairs = predicted.astype(np.int32) * label_count + referenced
        counts += np.bincount(pairs.ravel(), minlength=label_count**2)
    counts[0] = total_voxels - counts[1:].sum()
    return counts.reshape(label_count, label_count)


def count_voxels(confusion: Int64[np.ndarray, "predicted reference"], labels: Sequence[int]) -> VoxelCounts:
    """Counts the voxels of a class (label or region), which consists of `labels`."""
    rows = confusion[list(labels)]
    both = int(rows[:, list(labels)].sum())
    predicted = int(rows.sum())
    in_reference = int(confusion[:, list(labels)].sum())
    return VoxelCounts(
        true_positives=both,
        false_positives=predicted - both,
        false_negatives=in_reference - both,
        true_negatives=int(confusion.sum()) - predicted - in_reference + both,
    )


def compute_accuracy(confusion: Int64[np.ndarray, "predicted reference"]) -> float | None:
    """Computes the share of all counted voxels whose label is right (pixel accuracy); None if none is counted."""
    total = int(confusion.sum())
    return int(np.trace(confusion)) / total if total else None


def _check_labels(label_map: Integer[np.ndarray, "z y x"], name: str, *, label_count: int) -> None:
    if label_map.size == 0:
        return
    lowest, highest = int(label_map.min()), int(label_map.max())
    if lowest < 0 or highest >= label_count:
        found = lowest if lowest < 0 else highest
        msg = f"the {name} must hold the labels 0 to {label_count - 1}, found {found}; does it belong to this dataset?"
        raise EvaluationError(msg)
