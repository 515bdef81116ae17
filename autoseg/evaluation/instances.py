"""Scores of objects: predicted and reference objects are matched by their overlap.

A predicted object matches one of the reference, of the same class, if their IoU is above 0.5, so that none can match
two; at a threshold t, if it is also at least t. TP are the matches, FP and FN the objects of prediction and reference
without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from autoseg.document import Part

IOU_THRESHOLDS: Final = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
LOWEST_IOU: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matches:
    """Objects of one class in one image, and their matches.

    Attributes:
        predicted_voxels: Voxels of every predicted object.
        ious: IoU of every predicted object with its match; 0 without one.
        reference_voxels: Voxels of every object of the reference.
        probabilities: Mean probability of the class in every predicted object; None where it is not known.
    """

    predicted_voxels: Int64[np.ndarray, " predicted"]
    ious: Float64[np.ndarray, " predicted"]
    reference_voxels: Int64[np.ndarray, " reference"]
    probabilities: Float64[np.ndarray, " predicted"] | None = None

    def keep(self, is_kept: Bool[np.ndarray, " predicted"]) -> "Matches":
        """Returns the matches of some of the predicted objects."""
        return Matches(
            predicted_voxels=self.predicted_voxels[is_kept],
            ious=self.ious[is_kept],
            reference_voxels=self.reference_voxels,
            probabilities=None if self.probabilities is None else self.probabilities[is_kept],
        )


def match_objects(prediction: Integer[np.ndarray, "*space"], reference: Integer[np.ndarray, "*space"]) -> Matches:
    """Matches the numbered objects of two images; 0 is none, and other numbers may have gaps."""
    is_object = (prediction != 0) | (reference != 0)  # the indices below take 8 bytes a voxel
    predicted, predicted_index, predicted_voxels = _count(prediction[is_object])
    known, reference_index, reference_voxels = _count(reference[is_object])
    pairs = predicted_index.astype(np.int64) * len(known) + reference_index
    keys, counts = np.unique(pairs, return_counts=True)
    rows, columns = np.divmod(keys, len(known))
    is_pair = (predicted[rows] > 0) & (known[columns] > 0)
    rows, columns, counts = rows[is_pair], columns[is_pair], counts[is_pair]
    found = counts / (predicted_voxels[rows] + reference_voxels[columns] - counts)
    is_match = found > LOWEST_IOU
    ious = np.zeros(len(predicted))
    ious[rows[is_match]] = found[is_match]
    return Matches(
        predicted_voxels=predicted_voxels[predicted > 0],
        ious=ious[predicted > 0],
        reference_voxels=reference_voxels[known > 0],
    )


def _count(
    numbers: Integer[np.ndarray, "*space"],
) -> tuple[Int64[np.ndarray, " value"], Int64[np.ndarray, "*space"], Int64[np.ndarray, " value"]]:
    """Returns the values, the index of each voxel's value, and the voxels of each value."""
    values, indices, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return values.astype(np.int64), indices, counts


class ObjectScores(Part):
    """Scores of the objects of a class; None where neither prediction nor reference has an object.

    Attributes:
        AP: Mean of the average precision over `IOU_THRESHOLDS`.
        AP50: Average precision TP / (TP + FP + FN) at the threshold 0.5 (StarDist, Data Science Bowl 2018).
        AP75: The same at 0.75.
        F1: 2 TP / (2 TP + FP + FN) at the threshold 0.5, also known as recognition quality (RQ).
        SQ: Mean IoU of the matches, the segmentation quality; None without a match.
        PQ: Panoptic quality F1 x SQ (Kirillov et al. 2019).
        predicted, expected, matched: Numbers of objects of the prediction and of the reference, and of matches.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    F1: float | None
    SQ: float | None
    PQ: float | None
    predicted: int
    expected: int
    matched: int


def score_objects(matches: Sequence[Matches]) -> ObjectScores:
    """Scores the objects of a class in one or more images, all objects together."""
    ious = np.concatenate([entry.ious for entry in matches])
    ious = ious[ious > 0]
    predicted = sum(entry.ious.size for entry in matches)
    expected = sum(entry.reference_voxels.size for entry in matches)
    total = predicted + expected
    found = [int(np.count_nonzero(ious >= threshold)) for threshold in IOU_THRESHOLDS]
    precisions = [count / (total - count) if total else None for count in found]
    known = [value for value in precisions if value is not None]
    return ObjectScores(
        AP=sum(known) / len(known) if known else None,
        AP50=precisions[IOU_THRESHOLDS.index(0.5)],
        AP75=precisions[IOU_THRESHOLDS.index(0.75)],
        F1=2 * ious.size / total if total else None,
        SQ=float(ious.mean()) if ious.size else None,
        PQ=2 * float(ious.sum()) / total if total else None,
        predicted=predicted,
        expected=expected,
        matched=ious.size,
    )
