"""Lesion-wise detection: connected components of prediction and reference that overlap."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from autoseg.nonzero_region import FULL_CONNECTIVITY, connect_voxels


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionCounts:
    """Numbers of lesions, each a connected component of a mask.

    Attributes:
        true_positives: Lesions of the reference of which at least one voxel is predicted.
        false_positives: Predicted components that share no voxel with the reference.
        false_negatives: Lesions of the reference of which no voxel is predicted.
    """

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def f1(self) -> float | None:
        """F1 score 2 TP / (2 TP + FP + FN); None without any lesion."""
        total = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / total if total else None


def count_lesions(prediction: Bool[np.ndarray, "*space"], reference: Bool[np.ndarray, "*space"]) -> LesionCounts:
    """Counts the lesions of two masks with two or three axes; they overlap if they share one voxel."""
    both = prediction & reference
    found, missed = _count_touched(reference, both)
    _, alone = _count_touched(prediction, both)
    return LesionCounts(true_positives=found, false_positives=alone, false_negatives=missed)


def _count_touched(mask: Bool[np.ndarray, "*space"], both: Bool[np.ndarray, "*space"]) -> tuple[int, int]:
    """Counts the components of a mask that hold a voxel of `both`, and those that hold none."""
    if not mask.any():
        return 0, 0
    numbers = connect_voxels(mask, connectivity=FULL_CONNECTIVITY[mask.ndim])
    count = int(numbers.max())
    is_touched = np.zeros(1 + count, dtype=bool)
    is_touched[numbers[both]] = True
    touched = int(np.count_nonzero(is_touched))
    return touched, count - touched
