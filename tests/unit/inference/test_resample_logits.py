import numpy as np
import pytest
import torch
from builders.plans import RESAMPLING
from builders.preprocessing import resample_logits
from scipy.ndimage import zoom

from autoseg.inference.restoring.resample_logits import iterate_resampled_strips

LINEAR = (False, False, False)
SHAPES = [(9, 7, 8), (5, 14, 11), (20, 7, 3), (9, 30, 31), (1, 1, 1)]


def collect(logits, shape, is_nearest, strip_bytes=2**22):
    whole = torch.full((len(logits), *shape), torch.nan)
    for strip in iterate_resampled_strips(logits, shape, is_nearest=is_nearest, strip_bytes=strip_bytes):
        assert whole[:, strip.z, strip.rows].isnan().all(), "every voxel comes once"
        whole[:, strip.z, strip.rows] = strip.logits.movedim(-1, 0)
    assert not whole.isnan().any()
    return whole


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_interpolation_is_that_of_scipy(shape):
    logits = torch.randn(3, 9, 7, 8)
    factors = [new / old for new, old in zip(shape, (9, 7, 8), strict=True)]
    expected = [
        zoom(channel.astype(np.float64), factors, order=1, mode="nearest", grid_mode=True) for channel in logits.numpy()
    ]
    np.testing.assert_allclose(collect(logits, shape, LINEAR).numpy(), expected, atol=5e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_separate_axis_is_resampled_as_preprocessing_resamples_it(shape, axis):
    logits = torch.randn(2, 9, 7, 8)
    spacing = tuple(5.0 if index == axis else 1.0 for index in range(3))
    expected = resample_logits(
        logits.numpy(), shape=shape, spacing_mm=spacing, target_spacing_mm=(1.0, 1.0, 1.0), plan=RESAMPLING
    )
    is_nearest = tuple(index == axis for index in range(3))
    np.testing.assert_allclose(collect(logits, shape, is_nearest).numpy(), expected, atol=5e-6)


@pytest.mark.parametrize("is_nearest", [LINEAR, (True, False, False), (False, True, False), (True, True, True)])
def test_strips_are_cuts_of_the_whole(is_nearest):
    logits = torch.randn(3, 9, 7, 8)
    whole = collect(logits, (23, 15, 12), is_nearest)
    for rows in (1, 2, 5):
        assert torch.equal(collect(logits, (23, 15, 12), is_nearest, strip_bytes=rows * 3 * 12 * 4), whole)


def test_strips_are_no_larger_than_allowed():
    strips = iterate_resampled_strips(torch.zeros(3, 4, 7, 8), (5, 14, 16), is_nearest=LINEAR, strip_bytes=1000)
    assert {4 * strip.logits.numel() for strip in strips} == {3 * 5 * 16 * 4, 3 * 4 * 16 * 4}


def test_an_unchanged_shape_copies_bit_for_bit():
    logits = torch.randn(2, 5, 6, 7)
    assert torch.equal(collect(logits, (5, 6, 7), LINEAR), logits)


def test_half_precision_is_interpolated_in_single_precision():
    logits = torch.randn(3, 4, 5, 6).half()
    assert torch.equal(collect(logits, (9, 8, 11), LINEAR), collect(logits.float(), (9, 8, 11), LINEAR))


def test_a_value_never_leaves_the_range_of_its_neighbours():
    logits = torch.rand(2, 3, 4, 5)
    finer = collect(logits, (31, 29, 37), LINEAR)
    for channel, enlarged in zip(logits, finer, strict=True):
        assert channel.min() <= enlarged.min()
        assert enlarged.max() <= channel.max()
