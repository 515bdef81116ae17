"""Objects are matched and scored as plain loops over all pairs would."""

from itertools import product

import numpy as np
import pytest

from autoseg.evaluation.instances import IOU_THRESHOLDS, match_objects, score_objects


def draw(random: np.random.Generator, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Boxes at random places, later ones over earlier ones, whose numbers have gaps."""
    numbers = np.zeros(shape, np.int32)
    for index in range(count):
        corner = [int(random.integers(0, extent - 2)) for extent in shape]
        size = [int(random.integers(2, 2 + extent // 2)) for extent in shape]
        numbers[tuple(slice(first, first + more) for first, more in zip(corner, size, strict=True))] = 1 + 3 * index
    return numbers


def score_by_loops(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    predicted, expected = (sorted(set(numbers.ravel()) - {0}) for numbers in (prediction, reference))
    ious = {}
    for first, second in product(predicted, expected):
        one, other = prediction == first, reference == second
        ious[first, second] = (one & other).sum() / (one | other).sum()
    matches = [iou for iou in ious.values() if iou > 0.5]
    precisions = []
    for threshold in IOU_THRESHOLDS:
        true_positives = sum(iou >= threshold for iou in matches)
        false = len(predicted) - true_positives + len(expected) - true_positives
        precisions.append(true_positives / (true_positives + false))
    half = (len(predicted) + len(expected)) / 2
    quality = sum(matches) / len(matches) if matches else None
    return {
        "AP": float(np.mean(precisions)), "AP50": precisions[0], "AP75": precisions[5],
        "F1": len(matches) / half, "SQ": quality, "PQ": sum(matches) / half,
        "predicted": len(predicted), "expected": len(expected), "matched": len(matches),
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(24, 24), (10, 12, 14)])
def test_scores_equal_those_of_loops_over_all_pairs(shape: tuple[int, ...]) -> None:
    random, matched = np.random.default_rng(1), 0
    for _ in range(12):
        reference = draw(random, shape, 7)
        prediction = np.roll(reference * 2, random.integers(0, 3), axis=-1)
        prediction[draw(random, shape, 2) > 0] = int(random.integers(0, 2))
        found = score_objects([match_objects(prediction, reference)]).model_dump()
        assert found == pytest.approx(score_by_loops(prediction, reference))
        matched += found["matched"]
    assert matched > 12


def test_hand_values() -> None:
    reference = np.array([1] * 10 + [0] * 10 + [2] * 10 + [3] * 4)
    prediction = np.array([0] + [7] * 9 + [0] * 10 + [5] * 5 + [6] * 5 + [0] * 4)  # 0.9, and two halves of 0.5
    scores = score_objects([match_objects(prediction, reference)]).model_dump()
    expected = {"AP": 0.18, "AP50": 0.2, "AP75": 0.2, "F1": 1 / 3, "SQ": 0.9, "PQ": 0.3}  # a match up to 0.9
    assert scores == pytest.approx(expected | {"matched": 1, "predicted": 3, "expected": 3})


def test_images_are_pooled_by_adding_their_objects() -> None:
    none, one = np.zeros(6, int), np.array([1, 1, 1, 0, 0, 0])
    scores = score_objects([match_objects(one, one), match_objects(none, one), match_objects(one, none)])
    assert scores.model_dump(include={"AP50", "F1"}) == pytest.approx({"AP50": 1 / 3, "F1": 1 / 2})


def test_scores_without_objects_are_not_defined() -> None:
    none, one = np.zeros(6, int), np.array([1, 1, 1, 0, 0, 0])
    empty = score_objects([match_objects(none, none)])
    assert (empty.AP, empty.AP50, empty.F1, empty.SQ, empty.PQ) == (None,) * 5
    missed = score_objects([match_objects(none, one)])
    assert (missed.AP, missed.F1, missed.SQ, missed.PQ) == (0.0, 0.0, None, 0.0)
