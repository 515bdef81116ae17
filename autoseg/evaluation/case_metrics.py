"""Metrics of one case: a predicted label map compared with a reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Integer
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import EvaluationError
from autoseg.evaluation.lesions import LesionCounts, count_lesions
from autoseg.evaluation.overlap import VoxelCounts, compute_accuracy, count_confusion, count_voxels
from autoseg.evaluation.surface import SurfaceAgreement, compute_surface_agreement
from autoseg.geometry import FloatTriple, surround
from autoseg.labels import LabelScheme

CUBIC_MM_PER_ML: Final = 1000.0

Box = tuple[slice, slice, slice]
EMPTY_BOX: Final[Box] = (slice(0, 0), slice(0, 0), slice(0, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """Metrics of one class (label or region) in one case; None where a metric is undefined.

    Attributes:
        dice: 2 TP / (2 TP + FP + FN); undefined if the class is in neither label map.
        iou: TP / (TP + FP + FN); undefined like `dice`.
        hd95_mm: Larger of the two directed 95th percentiles of the surface distances; undefined if the class is missing
            in either label map, or has no surface that is not cut by ignored voxels.
        surface_dice: Share of both surfaces that lies within the tolerance of the other one; 0 if the class is missing
            in one label map, undefined if in both.
        volume_difference_ml: Predicted minus reference; undefined for a single slice, which has no volume.
        relative_volume_difference: The difference divided by the reference; undefined if the reference lacks the class.
        pixel_accuracy: Share of all voxels of the case whose label is right, the same for every class.
        volume_overlap_error: 1 - `iou`; undefined like `dice`.
        average_distance_mm: Average symmetric surface distance; undefined like `hd95_mm`.
        maximum_distance_mm: Maximum symmetric surface distance; undefined like `hd95_mm`.
        lesions: Connected components that were found, missed or wrongly predicted.
    """

    dice: float | None
    iou: float | None
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    predicted_voxels: int
    reference_voxels: int
    hd95_mm: float | None
    surface_dice: float | None
    volume_difference_ml: float | None
    relative_volume_difference: float | None
    pixel_accuracy: float | None
    volume_overlap_error: float | None
    average_distance_mm: float | None
    maximum_distance_mm: float | None
    lesions: LesionCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMapPair:
    """Prediction and reference on one grid.

    Attributes:
        ignored: Voxels that count nowhere, which are background in both; None if there are none.
    """

    prediction: Integer[np.ndarray, "z y x"]
    reference: Integer[np.ndarray, "z y x"]
    ignored: Bool[np.ndarray, "z y x"] | None = None

    def crop(self, box: Box) -> "LabelMapPair":
        """Returns views of a box of both, and of one voxel around it where voxels are ignored."""
        if self.ignored is None:
            return LabelMapPair(prediction=self.prediction[box], reference=self.reference[box])
        around = box if box == EMPTY_BOX else surround(box)
        return LabelMapPair(
            prediction=self.prediction[around], reference=self.reference[around], ignored=self.ignored[around]
        )


def evaluate_case(
    prediction: Integer[np.ndarray, "_z _y _x"],
    reference: Integer[np.ndarray, "z y x"],
    *,
    spacing_mm: FloatTriple,
    labels: LabelScheme,
    tolerance_mm: float = 1.0,
) -> tuple[ClassMetrics, ...]:
    """Compares two label maps with internal labels on the same grid, class by class in the order of `class_labels`.

    Voxels with the ignore label of the reference are not counted, and where they cut a class it has no
    surface. A volume of one slice is treated as an image: its surfaces are contours and its z spacing has no effect.
    Only the bounding box of the foreground, and for surfaces that of each class, is processed.

    Raises:
        EvaluationError: The shapes differ, or a label is unknown to the scheme.
    """
    if prediction.shape != reference.shape:
        msg = f"the prediction must have the reference's shape {reference.shape} (z, y, x), found {prediction.shape}"
        raise EvaluationError(msg)
    full, ignored_voxels = clear_ignored(prediction, reference, labels.ignore_label)
    pair = full.crop(_find_joint_foreground(full))
    boxes = _find_boxes(pair, label_count=len(labels.file_values))
    confusion = count_confusion(
        pair.prediction,
        pair.reference,
        label_count=len(labels.file_values),
        total_voxels=reference.size - ignored_voxels,
    )
    accuracy = compute_accuracy(confusion)
    is_image = reference.shape[0] == 1
    results = []
    for members in labels.class_labels:
        part = full if 0 in members else pair.crop(_join_boxes([boxes[label - 1] for label in members]))
        agreement, lesions = _compare_masks(part, members, spacing_mm[1:] if is_image else spacing_mm, tolerance_mm)
        voxel_mm3 = None if is_image else math.prod(spacing_mm)
        counts = count_voxels(confusion, members)
        results.append(_combine(counts, agreement, lesions, accuracy=accuracy, voxel_mm3=voxel_mm3))
    return tuple(results)


def clear_ignored(
    prediction: Integer[np.ndarray, "z y x"], reference: Integer[np.ndarray, "z y x"], ignore_label: int | None
) -> tuple[LabelMapPair, int]:
    """Sets ignored voxels to background in both label maps, and counts them."""
    pair = LabelMapPair(prediction=prediction, reference=reference)
    if ignore_label is None:
        return pair, 0
    ignored = reference == ignore_label
    count = int(np.count_nonzero(ignored))
    if count == 0:
        return pair, 0
    cleared = LabelMapPair(
        prediction=np.where(ignored, 0, prediction), reference=np.where(ignored, 0, reference), ignored=ignored
    )
    return cleared, count


def _find_joint_foreground(pair: LabelMapPair) -> Box:
    """Finds the bounding box of the foreground of both label maps."""
    _, height, width = pair.reference.shape
    in_plane = np.zeros((height, width), dtype=bool)
    in_slice = []
    for predicted, referenced in zip(pair.prediction, pair.reference, strict=True):
        foreground = (predicted != 0) | (referenced != 0)
        in_slice.append(foreground.any())
        in_plane |= foreground
    occupied = (np.array(in_slice), in_plane.any(axis=1), in_plane.any(axis=0))
    if not in_plane.any():
        return EMPTY_BOX
    first, second, third = (np.flatnonzero(along) for along in occupied)
    return (
        slice(int(first[0]), int(first[-1]) + 1),
        slice(int(second[0]), int(second[-1]) + 1),
        slice(int(third[0]), int(third[-1]) + 1),
    )


def _find_boxes(pair: LabelMapPair, *, label_count: int) -> list[Box]:
    """Finds the joint bounding box of each foreground label (1 first) in one pass over each label map."""
    if pair.reference.size == 0:
        return [EMPTY_BOX] * (label_count - 1)
    found = [ndimage.find_objects(side, max_label=label_count - 1) for side in (pair.prediction, pair.reference)]
    return [_join_boxes([box or EMPTY_BOX for box in both]) for both in zip(*found, strict=True)]


def _join_boxes(boxes: Sequence[Box]) -> Box:
    """Returns the smallest box around all boxes that are not empty."""
    occupied = [box for box in boxes if box != EMPTY_BOX]
    if not occupied:
        return EMPTY_BOX
    first, second, third = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*occupied, strict=True)
    )
    return (first, second, third)


def _compare_masks(
    pair: LabelMapPair, members: tuple[int, ...], spacing_mm: tuple[float, ...], tolerance_mm: float
) -> tuple[SurfaceAgreement, LesionCounts]:
    """Compares surfaces and lesions in 3D, or in the plane of the only slice if `spacing_mm` has two values."""
    plane = 0 if len(spacing_mm) == 2 and pair.reference.size else slice(None)
    prediction, reference = (_select_class(side[plane], members) for side in (pair.prediction, pair.reference))
    agreement = compute_surface_agreement(
        prediction,
        reference,
        spacing_mm=spacing_mm,
        tolerance_mm=tolerance_mm,
        ignored=None if pair.ignored is None else pair.ignored[plane],
    )
    return agreement, count_lesions(prediction, reference)


def _select_class(label_map: Integer[np.ndarray, "*space"], members: tuple[int, ...]) -> Bool[np.ndarray, "*space"]:
    mask: NDArray[np.bool_] = np.equal(label_map, members[0])
    for label in members[1:]:
        mask |= label_map == label
    return mask


def _combine(
    counts: VoxelCounts,
    agreement: SurfaceAgreement,
    lesions: LesionCounts,
    *,
    accuracy: float | None,
    voxel_mm3: float | None,
) -> ClassMetrics:
    difference = counts.predicted - counts.in_reference
    return ClassMetrics(
        dice=counts.dice,
        iou=counts.iou,
        true_positives=counts.true_positives,
        false_positives=counts.false_positives,
        false_negatives=counts.false_negatives,
        true_negatives=counts.true_negatives,
        predicted_voxels=counts.predicted,
        reference_voxels=counts.in_reference,
        hd95_mm=agreement.hd95_mm,
        surface_dice=agreement.surface_dice,
        volume_difference_ml=None if voxel_mm3 is None else difference * voxel_mm3 / CUBIC_MM_PER_ML,
        relative_volume_difference=difference / counts.in_reference if counts.in_reference else None,
        pixel_accuracy=accuracy,
        volume_overlap_error=counts.volume_overlap_error,
        average_distance_mm=agreement.average_distance_mm,
        maximum_distance_mm=agreement.maximum_distance_mm,
        lesions=lesions,
    )
