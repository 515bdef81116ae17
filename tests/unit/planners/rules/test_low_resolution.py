import numpy as np
import pytest

from planners.rules.low_resolution import choose_low_resolution, coarsen
from planners.rules.median_shape import ResampledDataset


def test_axes_more_than_twice_as_fine_as_the_coarsest_are_coarsened_first() -> None:
    np.testing.assert_allclose(coarsen(np.array([5.0, 1.0, 3.0])), [5.0, 1.03, 3.0])
    np.testing.assert_allclose(coarsen(np.array([2.05, 1.0, 1.5])), [2.05, 1.03, 1.5])
    np.testing.assert_allclose(coarsen(np.array([5.0, 2.5, 2.5])), [5.15, 2.575, 2.575])


def test_enough_context_needs_no_coarser_network() -> None:
    decision = _choose((100.0, 100.0, 100.0), patch=(50, 50, 100))
    assert decision.value is None
    assert decision.because.startswith("the patch 50 x 50 x 100 covers 25 % of the median case of 100 x 100 x 100")
    assert "not less than 25 %" in decision.because


def test_the_spacing_is_coarsened_until_the_patch_covers_a_quarter() -> None:
    decision = _choose((100.0, 100.0, 100.0), patch=(40, 40, 40))
    low = decision.value
    assert low is not None
    # 100 / 1.03^k voxels per axis; 40^3 is a quarter of 63.5^3, reached with k = 16 (62.3)
    assert low.spacing_mm == pytest.approx((1.03**16,) * 3)
    assert low.median_shape_voxels == (62.0, 62.0, 62.0)
    assert low.voxel_count == pytest.approx(10 * (100 / 1.03**16) ** 3)
    assert "covers 6.4 % of the median case" in decision.because
    assert "4.13 times fewer, at least a factor of 2" in decision.because


def test_a_coarser_network_that_saves_less_than_half_is_dropped() -> None:
    decision = _choose((100.0, 100.0, 100.0), patch=(50, 50, 60))
    assert decision.value is None
    assert "1.7 times fewer, which is less than a factor of 2" in decision.because


def _choose(median, *, patch):
    full = ResampledDataset(spacing_mm=(1.0, 1.0, 1.0), median_shape_voxels=median, voxel_count=1e7)
    return choose_low_resolution(full, full_patch_voxels=patch, case_count=10, choose_patch=lambda _: patch)
