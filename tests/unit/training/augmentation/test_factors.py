import numpy as np
import pytest
from scipy import stats

from autoseg.training.augmentation.factors import draw_around_one

RANGES = {"brightness": "factor_range", "contrast": "factor_range", "gamma": "exponent_range"}


def are_alike(first, second):
    return stats.ks_2samp(np.ravel(first), np.ravel(second)).pvalue > 0.001


def test_factors_below_and_above_one_are_equally_likely():
    draws = np.asarray([draw_around_one((0.9, 3.0)) for _ in range(2000)])
    assert np.mean(draws < 1) == pytest.approx(0.5, abs=0.04)
    assert (draws.min(), draws.max()) == pytest.approx((0.9, 3.0), abs=0.02)
    assert draw_around_one((2.0, 2.0)) == 2.0


def test_factors_are_decided_per_sample_and_drawn_per_channel(plan_transforms, draw):
    drawn = draw(plan_transforms(**{name: {"probability": 0.3, limits: (0.6, 1.9)} for name, limits in RANGES.items()}))
    reference = [draw_around_one((0.6, 1.9)) for _ in range(800)]
    decisions = []
    for factors in drawn:
        is_changed = factors != 1
        assert np.array_equal(is_changed[:, 0], is_changed[:, 1])
        assert is_changed[:, 0].mean() == pytest.approx(0.3, abs=0.06)
        assert are_alike(factors[is_changed], reference)
        assert abs(np.corrcoef(factors[is_changed].reshape(-1, 2).T)[0, 1]) < 0.25
        decisions.append(is_changed[:, 0])
    assert np.abs(np.corrcoef(decisions) - np.eye(3)).max() < 0.15


@pytest.mark.parametrize("name", RANGES)
def test_every_factor_follows_the_range_of_its_transform(plan_transforms, draw, name):
    limits = {RANGES[name]: (1.2, 1.2)}
    assert (draw(plan_transforms(**{name: limits}), count=9)[0] == 1.2).all()
    assert (draw(plan_transforms(**{name: limits | {"probability": 0.0}}), count=9)[0] == 1).all()


def test_a_range_on_one_side_of_one_is_uniform(plan_transforms, draw):
    (factors,) = draw(plan_transforms(gamma={"exponent_range": (1.2, 1.6)}))
    assert stats.kstest(factors.ravel(), stats.uniform(1.2, 0.4).cdf).pvalue > 0.001
