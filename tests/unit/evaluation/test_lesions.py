import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.evaluation.lesions import LesionCounts, count_lesions

Mask = NDArray[np.bool_]


def place(*boxes: tuple[slice, ...], dimensions: int) -> Mask:
    mask = np.zeros((8, 12, 16)[:dimensions], dtype=bool)
    for box in boxes:
        mask[box] = True
    return mask


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_reference_lesion_is_found_by_one_voxel_and_a_component_without_any_is_false(dimensions: int) -> None:
    rest = (slice(0, 2),) * (dimensions - 2)
    found, missed = (slice(0, 3), slice(0, 3), *rest), (slice(6, 8), slice(0, 3), *rest)
    touching, false = (slice(2, 4), slice(2, 5), *rest), (slice(4, 6), slice(9, 11), *rest)
    counts = count_lesions(place(touching, false, dimensions=dimensions), place(found, missed, dimensions=dimensions))
    assert counts == LesionCounts(true_positives=1, false_positives=1, false_negatives=1)
    assert counts.f1 == 0.5


def test_one_prediction_over_two_lesions_finds_both_and_two_pieces_of_one_lesion_find_it_once() -> None:
    two = place((slice(1, 2), slice(1, 3)), (slice(1, 2), slice(6, 8)), dimensions=2)
    one = place((slice(1, 2), slice(1, 8)), dimensions=2)
    assert count_lesions(one, two) == LesionCounts(true_positives=2, false_positives=0, false_negatives=0)
    assert count_lesions(two, one) == LesionCounts(true_positives=1, false_positives=0, false_negatives=0)


@pytest.mark.parametrize("corner", [(1, 1), (1, 1, 1)])
def test_voxels_that_share_a_corner_are_one_lesion(corner: tuple[int, ...]) -> None:
    mask = np.zeros((4,) * len(corner), dtype=bool)
    mask[corner], mask[tuple(index + 1 for index in corner)] = True, True
    assert count_lesions(np.zeros_like(mask), mask).false_negatives == 1


def test_without_lesions_the_score_is_undefined_and_with_them_on_one_side_zero() -> None:
    nothing, something = place(dimensions=3), place((slice(0, 2),) * 3, dimensions=3)
    assert count_lesions(nothing, nothing).f1 is None
    assert count_lesions(nothing, something) == LesionCounts(true_positives=0, false_positives=0, false_negatives=1)
    assert count_lesions(something, nothing) == LesionCounts(true_positives=0, false_positives=1, false_negatives=0)
    assert count_lesions(something, nothing).f1 == 0
