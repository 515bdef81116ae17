import pytest

from autoseg.training.objectives.segmentation import compute_output_weights


def test_output_weights_halve_and_sum_to_one():
    assert compute_output_weights(3) == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert compute_output_weights(1) == (1.0,)
