"""Estimates with conformal intervals, on simulated scores."""

import tracemalloc

import numpy as np
import pytest

from autoseg.quality import regression
from autoseg.quality.regression import (
    FEWEST_CASES,
    compute_rank_correlation,
    cross_estimate,
    find_conformal_quantiles,
    fit_regression,
    judge_fit,
)


def simulate(count, *, seed=0, noise=0.4, features=3):
    """Scores whose logits are linear in the first feature, with skewed noise."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, features))
    logits = 2 + values[:, 0] + noise * (random.exponential(size=count) - 1)
    return values, 1 / (1 + np.exp(-logits)), np.arange(count) % 5


@pytest.mark.parametrize("count", [20, 50, 200])
def test_intervals_of_new_cases_hold_nine_in_ten_whatever_the_number_of_cases(count) -> None:
    inside = []
    for seed in range(15):
        features, scores, blocks = simulate(count + 40, seed=seed)
        fitted = fit_regression(features[:count], scores[:count], blocks[:count])
        found = [fitted.estimate(row.tolist()) for row in features[count:]]
        inside += [one.low <= score <= one.high for one, score in zip(found, scores[count:], strict=True)]
    assert 0.86 <= np.mean(inside) <= (0.99 if count < 50 else 0.96)


def test_an_estimate_follows_the_features_and_stays_between_0_and_1() -> None:
    features, scores, blocks = simulate(100, noise=0.05)
    fitted = fit_regression(features, scores, blocks)
    found = [fitted.estimate(row.tolist()) for row in features]
    assert np.abs([one.value for one in found] - scores).mean() < 0.01
    extreme = fitted.estimate([1e9, 0.0, 0.0])
    assert 0 <= extreme.low <= extreme.value <= extreme.high <= 1


def test_an_interval_may_hold_scores_of_0_and_1() -> None:
    random = np.random.default_rng(0)
    scores = np.where(random.random(100) < 0.5, 1.0, random.uniform(0.9, 1.0, 100))
    features = random.normal(size=(100, 2))
    quality = judge_fit(features, scores, np.arange(100) % 5)
    assert quality.coverage >= 0.85
    assert fit_regression(features, scores, np.arange(100) % 5).estimate([0.0, 0.0]).high == 1.0


def test_a_case_is_judged_by_the_cases_of_other_blocks_alone() -> None:
    features, scores, blocks = simulate(60)
    changed = np.where(blocks == 2, 0.01, scores)
    before, after = (cross_estimate(features, known, blocks) for known in (scores, changed))
    assert [a == b for a, b, block in zip(before, after, blocks, strict=True) if block == 2] == [True] * 12
    quality = judge_fit(features, scores, blocks)
    assert (quality.cases, quality.rank_correlation > 0.7, quality.mean_error < 0.06) == (60, True, True)


def test_scores_may_follow_the_product_of_two_features() -> None:
    """Where a bright image is good from one scanner, and bad from another one."""
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 10))
    scores = 1 / (1 + np.exp(-(2 + features[:, 0] * features[:, 1] + 0.2 * random.normal(size=200))))
    blocks = np.arange(200) % 5
    assert judge_fit(features, scores, blocks).rank_correlation > 0.6
    found = fit_regression(features, scores, blocks)
    weights = dict(zip(zip(*np.triu_indices(10), strict=True), found.product_weights, strict=True))
    assert max(weights, key=weights.__getitem__) == (0, 1)
    rows = ([value, value, *features.mean(0)[2:].tolist()] for value in (2.6, 3.0))
    near, far = (fitted_logit(found.model_copy(update={"weights": (0.0,) * 10}), row) for row in rows)
    assert far == pytest.approx(near, abs=0.05)  # a product counts no further than a feature


def fitted_logit(fitted, row):
    value = fitted.estimate(row).value
    return np.log(value / (1 - value))


def test_of_many_cases_some_are_fitted_from_the_first_to_the_last(monkeypatch) -> None:
    features, scores, blocks = simulate(60, noise=0.1)
    whole = fit_regression(features[::2], scores[::2], blocks[::2])
    monkeypatch.setattr(regression, "MOST_CASES", 30)
    fitted = fit_regression(features, scores, blocks)
    assert fitted.weights == pytest.approx(whole.weights, abs=0.1)
    chosen = np.linspace(0, 59, 30).round().astype(int)
    assert fitted.weights == fit_regression(features[chosen], scores[chosen], blocks[chosen]).weights


def test_the_memory_of_a_fit_is_bounded_with_the_features_of_many_channels() -> None:
    features, scores, blocks = simulate(110, features=300)
    tracemalloc.start()
    try:
        fit_regression(features, scores, blocks % 2)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100e6  # all products have 40 MB, of which a fit would hold four copies


def test_products_that_are_made_in_blocks_are_those_that_are_made_at_once(monkeypatch) -> None:
    features, scores, blocks = simulate(60, features=7)
    whole = fit_regression(features, scores, blocks)
    monkeypatch.setattr(regression, "MOST_VALUES", 60 * 5)
    fitted = fit_regression(features, scores, blocks)
    assert (len(fitted.weights), len(fitted.product_weights)) == (7, 28)
    assert fitted.weights == pytest.approx(whole.weights, rel=1e-9)
    assert fitted.product_weights == pytest.approx(whole.product_weights, rel=1e-9, abs=1e-12)
    assert (fitted.low, fitted.high) == pytest.approx((whole.low, whole.high), rel=1e-9)


def test_a_few_scores_of_0_do_not_bend_the_regression() -> None:
    features, scores, blocks = simulate(100, noise=0.05)
    spoilt = scores.copy()
    spoilt[:4] = 0.0
    fitted, plain = fit_regression(features, spoilt, blocks), fit_regression(features, scores, blocks)
    ordinary = features[50].tolist()
    assert fitted.estimate(ordinary).value == pytest.approx(plain.estimate(ordinary).value, abs=0.02)


@pytest.mark.parametrize(("count", "ranks"), [(20, (1, 20)), (39, (2, 38)), (199, (10, 190))])
def test_either_end_of_an_interval_leaves_out_at_most_a_twentieth(count, ranks) -> None:
    assert find_conformal_quantiles(np.arange(1.0, count + 1)) == ranks
    assert count >= FEWEST_CASES


def test_constant_scores_have_no_rank_correlation() -> None:
    assert compute_rank_correlation(np.ones(5), np.arange(5.0)) == 0.0
