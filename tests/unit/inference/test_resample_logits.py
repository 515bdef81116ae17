import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from autoseg.inference.resample_logits import iterate_resampled_slabs
from autoseg.plan import ResamplingPlan
from autoseg.preprocessing.resample import resample_logits

LINEAR = (False, False, False)
SHAPES = [(9, 7, 8), (5, 14, 11), (20, 7, 3), (9, 30, 31), (1, 1, 1)]


def collect(logits, shape, is_nearest, slab_bytes=2**24):
    slabs = list(iterate_resampled_slabs(logits, shape, is_nearest=is_nearest, slab_bytes=slab_bytes))
    assert [row for rows, _ in slabs for row in range(rows.start, rows.stop)] == list(range(shape[0]))
    return torch.cat([slab for _, slab in slabs], dim=1)


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
    plan = ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3)
    expected = resample_logits(
        logits.numpy(), shape=shape, spacing_mm=spacing, target_spacing_mm=(1.0, 1.0, 1.0), plan=plan
    )
    is_nearest = tuple(index == axis for index in range(3))
    np.testing.assert_allclose(collect(logits, shape, is_nearest).numpy(), expected, atol=5e-6)


@pytest.mark.parametrize("is_nearest", [LINEAR, (True, False, False), (False, True, False), (True, True, True)])
def test_slabs_are_cuts_of_the_whole(is_nearest):
    logits = torch.randn(3, 9, 7, 8)
    whole = collect(logits, (23, 15, 12), is_nearest)
    for rows in (1, 2, 5):
        slabs = collect(logits, (23, 15, 12), is_nearest, slab_bytes=rows * 3 * 15 * 12 * 4)
        torch.testing.assert_close(slabs, whole, atol=1e-6, rtol=0)  # torch rounds by how it divides the work


def test_slabs_are_no_larger_than_allowed():
    slabs = iterate_resampled_slabs(torch.zeros(3, 4, 7, 8), (40, 14, 16), is_nearest=LINEAR, slab_bytes=10_000)
    assert {4 * slab.numel() for _, slab in slabs} == {3 * 3 * 14 * 16 * 4, 3 * 1 * 14 * 16 * 4}


def test_an_unchanged_shape_copies_bit_for_bit():
    logits = torch.randn(2, 5, 6, 7)
    assert torch.equal(collect(logits, (5, 6, 7), LINEAR), logits)
