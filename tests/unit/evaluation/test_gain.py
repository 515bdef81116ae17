import numpy as np
import pytest

from autoseg.evaluation.gain import Gain, compute_gain


def test_a_gain_is_the_difference_of_the_means_over_classes_of_means_over_cases():
    before = np.array([[0.5, 0.8], [0.7, np.nan]])
    after = np.array([[0.6, 0.9], [0.7, np.nan]])
    gain = compute_gain(before, after)
    assert gain.mean == pytest.approx((0.05 + 0.1) / 2)
    assert gain.lower <= gain.mean <= gain.upper


def test_equal_scores_are_no_gain():
    table = np.array([[0.5, np.nan], [0.7, 0.2]])
    assert compute_gain(table, table) == Gain(mean=0.0, lower=0.0, upper=0.0)


@pytest.mark.parametrize(
    ("gain", "text"),
    [
        (Gain(mean=0.0123, lower=-0.001, upper=0.02), "+0.0123 (95 % interval -0.0010 to +0.0200)"),
        (Gain(mean=-0.00000012, lower=-0.00004, upper=0.0), "-1e-07 (95 % interval -4e-05 to +0.0000)"),
    ],
)
def test_a_gain_that_is_not_nothing_never_reads_as_nothing(gain, text):
    assert gain.describe() == text
