import numpy as np
import pytest

from autoseg.evaluation.gain import Gain, compute_gain


def test_a_gain_is_the_difference_of_the_means_over_classes_of_means_over_cases():
    before = np.array([[0.5, 0.8], [0.7, np.nan]] * 3)
    after = np.array([[0.6, 0.9], [0.7, np.nan]] * 3)
    gain = compute_gain(before, after)
    assert gain.mean == pytest.approx((0.05 + 0.1) / 2)
    assert gain.lower <= gain.mean <= gain.upper


def test_equal_scores_are_no_gain():
    table = np.array([[0.5, np.nan], [0.7, 0.2]] * 3)
    assert compute_gain(table, table) == Gain(mean=0.0, lower=0.0, upper=0.0)


@pytest.mark.parametrize(
    ("gain", "text"),
    [
        (Gain(mean=0.0123, lower=-0.001, upper=0.02), "+0.0123 (95 % interval -0.0010 to +0.0200)"),
        (Gain(mean=0.0514, lower=None, upper=None), "+0.0514 (too few cases to tell: fewer than 5)"),
        (Gain(mean=-0.00000012, lower=-0.00004, upper=0.0), "-1e-07 (95 % interval -4e-05 to +0.0000)"),
    ],
)
def test_a_gain_that_is_not_nothing_never_reads_as_nothing(gain, text):
    assert gain.describe() == text


@pytest.mark.parametrize(("count", "has_interval"), [(1, False), (2, False), (4, False), (5, True)])
def test_few_cases_have_no_interval_that_would_look_like_certainty(count, has_interval):
    before = np.full((count, 1), 0.5)
    gain = compute_gain(before, before + 0.0514)
    assert gain.mean == pytest.approx(0.0514)
    assert gain.has_interval == has_interval
    assert compute_gain(before, before).has_interval == has_interval


def test_cases_in_which_nothing_that_changes_is_scored_do_not_count():
    before = np.column_stack([[0.5] * 2 + [np.nan] * 8, [0.9] * 10])
    after = before + np.array([0.1, 0.0])
    gain = compute_gain(before, after)
    assert (gain.mean, gain.lower, gain.upper) == (pytest.approx(0.05), None, None)
