"""What of a validation fits into a time, on a machine of known pace."""

import itertools

import pytest
from builders.plans import build_configuration

from autoseg.inference.options import PredictionOptions
from autoseg.workflows.evaluate.validation_cost import (
    ESTIMATE_MARGIN,
    WORKER_START_SECONDS,
    ValidationCost,
    fit_validation,
    sample_cases,
)

CASES = tuple(f"case_{index}" for index in range(10))
PLAIN, SPARSE = PredictionOptions(mirroring=False), PredictionOptions(mirroring=False, step_fraction=0.75)


def make_cost(*, mirrored_views=4):
    """Of pictures of 7 x 7 windows usually and 5 x 5 with less overlap, each 0.1 s for one view."""
    return ValidationCost(
        shapes_voxels=dict.fromkeys(CASES, (1, 256, 256)),
        configuration=build_configuration((64, 64)),
        mirrored_views=mirrored_views,
        window_seconds=0.1,
        finishing_seconds_per_voxel=0.0,
        evaluation_seconds_per_voxel=0.0,
    )


def estimate(seconds):
    return pytest.approx(seconds * ESTIMATE_MARGIN + WORKER_START_SECONDS)


WHOLE, UNMIRRORED, SPREAD = 10 * 49 * 4 * 0.1, 10 * 49 * 0.1, 10 * 25 * 0.1


def test_views_windows_and_cases_are_counted():
    cost = make_cost()
    assert cost.estimate_seconds(CASES, PredictionOptions()) == estimate(WHOLE)
    assert cost.estimate_seconds(CASES, PLAIN) == estimate(UNMIRRORED)
    assert cost.estimate_seconds(CASES[:3], SPARSE) == estimate(0.3 * SPREAD)


@pytest.mark.parametrize(
    ("seconds", "options", "count"),
    [
        (230.0, PredictionOptions(), 10),
        (210.0, PLAIN, 10),
        (50.0, SPARSE, 10),
        (20.0, SPARSE, 6),
        (5.0, SPARSE, 1),
        (0.1, SPARSE, 1),
    ],
)
def test_mirrored_views_go_first_then_overlap_then_cases(seconds, options, count):
    choice = fit_validation(make_cost(), CASES, limit_seconds=seconds)
    assert (choice.options, len(choice.cases), choice.held_out_cases) == (options, count, 10)
    assert choice.seconds <= seconds or count == 1
    assert choice.whole_seconds == estimate(WHOLE)
    assert bool(choice.limits) == (choice.options != PredictionOptions() or count < 10)


def test_where_nothing_is_mirrored_overlap_goes_first():
    cost = make_cost(mirrored_views=1)
    choice = fit_validation(cost, CASES, limit_seconds=50.0)
    assert choice.options == PredictionOptions(step_fraction=0.75)
    assert choice.limits == ("windows 0.75 of a patch apart instead of 0.5",)


def test_a_sample_is_spread_over_all_cases_and_always_the_same():
    assert sample_cases(CASES, 3) == ("case_0", "case_3", "case_6")
    assert sample_cases(CASES, 10) == CASES


def test_mirrored_views_are_worth_more_than_overlap_and_overlap_more_than_cases():
    def choose(seconds):
        return fit_validation(make_cost(), CASES, limit_seconds=seconds)

    best_first = [choose(seconds) for seconds in (230.0, 210.0, 50.0, 20.0, 5.0)]
    for better, worse in itertools.pairwise(best_first):
        assert better.is_better_than(worse)
        assert not worse.is_better_than(better)
