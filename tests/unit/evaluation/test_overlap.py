import numpy as np
import pytest

from autoseg.errors import EvaluationError
from autoseg.evaluation.overlap import VoxelCounts, count_confusion, count_voxels


def test_overlaps_follow_from_the_counts() -> None:
    counts = VoxelCounts(true_positives=6, false_positives=2, false_negatives=4, true_negatives=88)
    assert (counts.predicted, counts.in_reference) == (8, 10)
    assert counts.dice == pytest.approx(12 / 18)
    assert counts.iou == pytest.approx(6 / 12)


def test_overlaps_of_two_empty_masks_are_undefined() -> None:
    counts = VoxelCounts(true_positives=0, false_positives=0, false_negatives=0, true_negatives=5)
    assert (counts.dice, counts.iou) == (None, None)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int64])
def test_confusion_counts_every_pair_of_labels(kind: type[np.integer]) -> None:
    random = np.random.default_rng(0)
    prediction, reference = (random.integers(0, 4, (3, 5, 7)).astype(kind) for _ in range(2))
    confusion = count_confusion(prediction, reference, label_count=4, total_voxels=3 * 5 * 7)
    expected = [[int(((prediction == p) & (reference == r)).sum()) for r in range(4)] for p in range(4)]
    assert confusion.tolist() == expected


def test_many_labels_do_not_overflow_a_narrow_type() -> None:
    label_map = np.array([[[254, 255]]], dtype=np.uint8)
    confusion = count_confusion(label_map, label_map, label_count=256, total_voxels=2)
    assert np.argwhere(confusion).tolist() == [[254, 254], [255, 255]]


def test_voxels_beyond_the_arrays_are_background_in_both() -> None:
    ones = np.ones((1, 1, 2), dtype=np.uint8)
    counts = count_voxels(count_confusion(ones, ones, label_count=2, total_voxels=10), (1,))
    assert counts == VoxelCounts(true_positives=2, false_positives=0, false_negatives=0, true_negatives=8)


def test_labels_of_one_region_are_not_confused_with_each_other() -> None:
    prediction = np.array([[[1, 2, 3, 0]]], dtype=np.uint8)
    reference = np.array([[[2, 2, 0, 3]]], dtype=np.uint8)
    confusion = count_confusion(prediction, reference, label_count=4, total_voxels=4)
    assert count_voxels(confusion, (1, 2)) == VoxelCounts(
        true_positives=2, false_positives=0, false_negatives=0, true_negatives=2
    )


@pytest.mark.parametrize(("value", "found"), [(3, "found 3"), (-1, "found -1")])
def test_unknown_labels_are_named(value: int, found: str) -> None:
    known, unknown = np.zeros((1, 2, 2), dtype=np.int16), np.full((1, 2, 2), value, dtype=np.int16)
    with pytest.raises(EvaluationError, match=rf"the prediction must hold the labels 0 to 2, {found}"):
        count_confusion(unknown, known, label_count=3, total_voxels=4)
    with pytest.raises(EvaluationError, match=rf"the reference must hold the labels 0 to 2, {found}"):
        count_confusion(known, unknown, label_count=3, total_voxels=4)
