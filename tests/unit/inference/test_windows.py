import numpy as np
import pytest
from builders.plans import build_configuration
from scipy.ndimage import gaussian_filter

from autoseg.inference.sliding_window.windows import (
    compute_blending_weights,
    compute_gaussian_weights,
    compute_window_plan,
    compute_window_starts,
)


@pytest.mark.parametrize(
    ("extent", "patch", "step", "starts"),
    [
        (110, 64, 0.5, (0, 23, 46)),
        (300, 128, 0.5, (0, 57, 115, 172)),
        (64, 64, 0.5, (0,)),
        (40, 64, 0.5, (0,)),
        (65, 64, 0.5, (0, 1)),
        (67, 64, 0.5, (0, 3)),
        (128, 64, 1.0, (0, 64)),
        (129, 64, 1.0, (0, 32, 65)),  # 32.5 rounds to the even 32
        (131, 64, 1.0, (0, 34, 67)),  # 33.5 rounds to the even 34
        (5, 1, 0.5, (0, 1, 2, 3, 4)),
    ],
)
def test_windows_start_where_the_reference_starts_them(extent, patch, step, starts):
    assert compute_window_starts(extent, patch, step) == starts


@pytest.mark.parametrize("patch", [7, 16, 40])
@pytest.mark.parametrize("step", [0.25, 0.5, 1.0])
def test_windows_cover_an_axis_from_end_to_end_in_steps_of_at_most_the_wanted_size(patch, step):
    for extent in range(patch, 4 * patch):
        starts = compute_window_starts(extent, patch, step)
        assert starts[0] == 0
        assert starts[-1] == extent - patch
        assert np.diff(starts).max(initial=0) <= np.ceil(step * patch)


@pytest.mark.parametrize("patch", [(16, 24, 40), (5, 8, 7)])
def test_weights_are_the_gaussian_of_the_reference_before_it_rounds_to_half_precision(patch):
    delta = np.zeros(patch)
    delta[tuple(extent // 2 for extent in patch)] = 1
    expected = gaussian_filter(delta, [extent / 8 for extent in patch], mode="constant", truncate=4)
    z, y, x = (compute_gaussian_weights(extent) for extent in patch)
    np.testing.assert_allclose(z[:, None, None] * y[:, None] * x, expected / expected.max(), rtol=2e-6)


@pytest.mark.parametrize("patch", [1, 2, 3, 31, 64, 320])
def test_no_weight_vanishes(patch):
    weights = compute_gaussian_weights(patch)
    assert weights.dtype == np.float32
    assert weights.max() == 1
    assert weights.min() > 3e-4


@pytest.mark.parametrize(("starts", "patch"), [((0, 23, 46), 64), ((0,), 64), ((0, 8, 16), 16), ((0, 1, 2), 1)])
def test_shares_of_all_windows_add_up_to_one_in_every_voxel(starts, patch):
    shares = compute_blending_weights(starts, patch)
    total = np.zeros(starts[-1] + patch)
    for start, share in zip(starts, shares, strict=True):
        total[start : start + patch] += share
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_voxel_of_a_single_window_is_taken_as_it_is():
    assert (compute_blending_weights((0,), 40) == 1).all()


def test_a_small_volume_is_padded_with_the_smaller_half_in_front():
    plan = compute_window_plan((5, 20, 8), build_configuration((8, 16, 8)), 0.5)
    assert plan.padding_voxels == ((1, 2), (0, 0), (0, 0))
    assert plan.starts == ((0,), (0, 4), (0,))


def test_a_flat_patch_has_windows_in_every_slice_and_never_pads_slices():
    plan = compute_window_plan((3, 20, 6), build_configuration((16, 8)), 0.5)
    assert plan.patch_voxels == (1, 16, 8)
    assert plan.padding_voxels == ((0, 0), (0, 0), (1, 1))
    assert [plan.locate(window)[1:3] for window in plan.windows] == [
        (slice(z, z + 1), slice(y, y + 16)) for z in range(3) for y in (0, 4)
    ]
