import numpy as np
import pytest
import torch
from autoseg.training.device.parameters import draw_parameters
from batchgenerators.augmentations.color_augmentations import augment_contrast, augment_gamma
from batchgenerators.augmentations.resample_augmentations import augment_linear_downsampling_scipy
from scipy.ndimage import gaussian_filter

from autoseg.training.device import intensity

SHAPES = [(8, 10, 12), (16, 18)]


@pytest.fixture
def change(draw_image, device):
    """Applies a function to the channels of an image; returns them before and after."""

    def apply(function, shape, **options):
        image = draw_image(shape)
        rows = torch.from_numpy(image.reshape(-1, *shape)).to(device, copy=True)
        function(rows, **options)
        return image.reshape(-1, *shape), rows.cpu().numpy()

    return apply


@pytest.mark.parametrize("shape", SHAPES)
def test_blur_is_that_of_scipy_and_leaves_other_channels_alone(change, shape):
    sigmas = np.random.default_rng(0).uniform(0.5, 1.0, size=(6, len(shape)))
    sigmas[[1, 4]] = 0
    before, after = change(intensity.blur, shape, sigmas_voxels=sigmas)
    for row in (0, 2, 3, 5):
        assert np.allclose(after[row], gaussian_filter(before[row], sigmas[row]), atol=1e-5)
    assert np.array_equal(after[[1, 4]], before[[1, 4]])


def test_brightness_multiplies(change):
    factors = np.asarray([1, 0.8, 1, 1.2, 1, 1])
    before, after = change(intensity.brighten, (8, 10, 12), factors=factors)
    assert np.allclose(after, before * factors[:, None, None, None])
    assert np.array_equal(after[0], before[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_is_that_of_batchgenerators(change, shape):
    factors = np.asarray([1, 0.8, 1.1, 1.25, 1, 0.75])
    before, after = change(intensity.spread_contrast, shape, factors=factors)
    for row in range(6):
        expected = augment_contrast(before[row][None].copy(), contrast_range=lambda row=row: factors[row])[0]
        assert np.allclose(after[row], expected, atol=1e-5)
    assert np.array_equal(after[0], before[0])


@pytest.mark.parametrize(("shape", "first_axis"), [((8, 10, 12), 0), ((8, 10, 12), 1), ((16, 18), 0)])
def test_low_resolution_is_that_of_batchgenerators(change, shape, first_axis):
    zooms = np.asarray([1, 0.5, 0.6, 0.77, 1, 0.98])
    before, after = change(intensity.coarsen, shape, zooms=zooms, first_axis=first_axis)
    for row in range(6):
        expected = augment_linear_downsampling_scipy(
            before[row][None].copy(),
            zoom_range=(zooms[row], zooms[row]),
            order_downsample=0,
            order_upsample=1,
            ignore_axes=tuple(range(first_axis)),
        )[0]
        assert np.allclose(after[row], expected, atol=1e-5)
    assert np.array_equal(after[0], before[0])


@pytest.mark.parametrize("is_inverted", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_is_that_of_batchgenerators(change, monkeypatch, *, shape, is_inverted):
    exponents = np.asarray([1, 0.7, 0.9, 1.2, 1, 1.5])
    before, after = change(intensity.bend_inverted if is_inverted else intensity.bend, shape, exponents=exponents)
    for row in (1, 2, 3, 5):
        monkeypatch.setattr(np.random, "uniform", lambda low, high, row=row: exponents[row])  # which it draws from
        channel = before[row][None].astype(np.float64)
        expected = augment_gamma(channel, (0.5, 2), invert_image=is_inverted, per_channel=True, retain_stats=True)
        assert np.allclose(after[row], expected[0], atol=2e-4)
    assert np.array_equal(after[[0, 4]], before[[0, 4]])


def test_gamma_keeps_mean_and_spread(change):
    before, after = change(intensity.bend, (8, 10, 12), exponents=np.full(6, 1.5))
    assert after.mean(axis=(1, 2, 3)) == pytest.approx(before.mean(axis=(1, 2, 3)), abs=1e-4)
    assert after.std(axis=(1, 2, 3)) == pytest.approx(before.std(axis=(1, 2, 3)), rel=1e-4)


def test_constant_channels_stay_finite(device):
    rows = torch.full((2, 4, 5, 6), 3.0, device=device)
    for function in (intensity.bend, intensity.bend_inverted):
        function(rows, np.asarray([0.8, 1.4]))
    intensity.spread_contrast(rows, np.asarray([0.8, 1.4]))
    assert torch.allclose(rows, torch.full_like(rows, 3.0), atol=1e-4)


@pytest.fixture
def draw_noise_parameters(plan_augmentation, list_seeds):
    """Parameters of a plan with noise."""

    def make(probability, count):
        plan = plan_augmentation(noise_probability=probability, noise_std_range=(0.3, 0.3))
        return draw_parameters(plan, list_seeds(count), channels=2, dimensions=3)

    return make


def test_noise_has_the_drawn_spread_in_all_channels(draw_noise_parameters, device):
    image = torch.zeros(4, 2, 20, 20, 20, device=device)
    intensity.add_noise(image, draw_noise_parameters(1.0, 4))
    noise = image.cpu().numpy()
    assert noise.std(axis=(2, 3, 4)) == pytest.approx(np.full((4, 2), 0.3), rel=0.04)
    assert np.abs(np.corrcoef(noise.reshape(8, -1)) - np.eye(8)).max() < 0.05


def test_noise_changes_the_chosen_samples_alone(draw_noise_parameters, device):
    image = torch.zeros(20, 2, 3, 4, 5, device=device)
    parameters = draw_noise_parameters(0.5, 20)
    intensity.add_noise(image, parameters)
    is_changed = image.flatten(1).any(1).cpu().numpy()
    assert np.array_equal(is_changed, parameters.noise_std > 0)
    assert 0 < is_changed.sum() < 20
