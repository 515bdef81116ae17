from dataclasses import fields

import numpy as np
import pytest
from autoseg.training.device.parameters import PatchParameters, draw_parameters
from autoseg.training.spatial import draw_spatial_parameters
from scipy import stats

from autoseg.training.augmentation import draw_around_one

SAMPLES = 800


@pytest.fixture
def draw(list_seeds):
    """Draws for many samples."""

    def make(plan, *, count=SAMPLES, channels=2, dimensions=3, **where):
        return draw_parameters(plan, list_seeds(count, **where), channels=channels, dimensions=dimensions)

    return make


def are_alike(first, second):
    return stats.ks_2samp(np.ravel(first), np.ravel(second)).pvalue > 0.001


@pytest.mark.parametrize("dimensions", [2, 3])
def test_rotations_and_scales_are_distributed_as_on_the_processor(plan_augmentation, draw, dimensions):
    plan = plan_augmentation(rotation_probability=0.2, scaling_probability=0.4)
    drawn = draw(plan, dimensions=dimensions)
    np.random.seed(0)
    reference = [draw_spatial_parameters(plan, dimensions) for _ in range(SAMPLES)]
    angles = np.asarray([known.angles_radians for known in reference if known.angles_radians is not None])
    is_rotated = drawn.angles_radians.any(axis=1)
    assert drawn.angles_radians.shape == (SAMPLES, angles.shape[1])
    assert is_rotated.mean() == pytest.approx(0.2, abs=0.06)
    assert len(angles) / SAMPLES == pytest.approx(0.2, abs=0.06)
    for axis in range(angles.shape[1]):
        assert are_alike(drawn.angles_radians[is_rotated, axis], angles[:, axis])
    is_scaled = drawn.scale != 1
    assert is_scaled.mean() == pytest.approx(0.4, abs=0.06)
    assert are_alike(drawn.scale[is_scaled], [known.scale for known in reference if known.scale is not None])
    assert np.array_equal(drawn.is_moved, is_rotated | is_scaled)
    assert drawn.is_moved.mean() == pytest.approx(0.52, abs=0.06)
    assert np.degrees(np.abs(drawn.angles_radians).max()) == pytest.approx(30, abs=1)


def test_angles_about_different_axes_are_independent(plan_augmentation, draw):
    angles = draw(plan_augmentation(rotation_probability=1.0)).angles_radians
    assert np.abs(np.corrcoef(angles.T) - np.eye(3)).max() < 0.12


def test_in_plane_changes_have_one_angle(plan_augmentation, draw):
    plan = plan_augmentation(rotation_probability=1.0, in_plane_only=True)
    assert draw(plan, count=3).angles_radians.shape == (3, 1)
    assert draw(plan, count=3, dimensions=2).angles_radians.shape == (3, 1)


FACTORS = {
    "brightness": ("brightness_probability", "brightness_range"),
    "contrast": ("contrast_probability", "contrast_range"),
    "gamma": ("gamma_probability", "gamma_range"),
    "inverted_gamma": ("inverted_gamma_probability", "gamma_range"),
}


def test_factors_are_decided_per_sample_and_drawn_per_channel(plan_augmentation, draw):
    wanted = {chance: 0.3 for chance, _ in FACTORS.values()} | {limits: (0.6, 1.9) for _, limits in FACTORS.values()}
    drawn = draw(plan_augmentation(**wanted))
    np.random.seed(0)
    reference = [draw_around_one((0.6, 1.9)) for _ in range(SAMPLES)]
    decisions = []
    for name in FACTORS:
        factors = getattr(drawn, name)
        is_changed = factors != 1
        assert np.array_equal(is_changed[:, 0], is_changed[:, 1])
        assert is_changed[:, 0].mean() == pytest.approx(0.3, abs=0.06)
        assert are_alike(factors[is_changed], reference)
        assert abs(np.corrcoef(factors[is_changed].reshape(-1, 2).T)[0, 1]) < 0.25
        decisions.append(is_changed[:, 0])
    assert np.abs(np.corrcoef(decisions) - np.eye(4)).max() < 0.15


@pytest.mark.parametrize("name", FACTORS)
def test_every_factor_follows_its_own_field_of_the_plan(plan_augmentation, draw, name):
    chance, limits = FACTORS[name]
    drawn = draw(plan_augmentation(**{chance: 1.0, limits: (1.2, 1.2)}), count=5)
    assert {other: getattr(drawn, other).max() for other in FACTORS} == {
        other: 1.2 if other == name else 1.0 for other in FACTORS
    }


def test_a_range_on_one_side_of_one_is_uniform(plan_augmentation, draw):
    factors = draw(plan_augmentation(gamma_probability=1.0, gamma_range=(1.2, 1.6))).gamma
    assert stats.kstest(factors.ravel(), stats.uniform(1.2, 0.4).cdf).pvalue > 0.001
    assert (draw(plan_augmentation(contrast_probability=1.0, contrast_range=(1.2, 1.2)), count=9).contrast == 1.2).all()


def test_blur_is_decided_per_sample_and_channel_and_drawn_per_axis(plan_augmentation, draw):
    plan = plan_augmentation(blur_probability=0.4, blur_channel_probability=0.5)
    sigmas = draw(plan).blur_sigma_voxels
    is_blurred = (sigmas > 0).all(axis=2)
    assert np.array_equal(is_blurred, (sigmas > 0).any(axis=2))
    assert is_blurred.mean(axis=0) == pytest.approx([0.2, 0.2], abs=0.06)
    assert is_blurred.all(axis=1).mean() == pytest.approx(0.1, abs=0.06)
    assert stats.kstest(sigmas[is_blurred].ravel(), stats.uniform(0.5, 0.5).cdf).pvalue > 0.001
    assert np.abs(np.corrcoef(sigmas[is_blurred].T) - np.eye(3)).max() < 0.2


def test_low_resolution_is_decided_per_sample_and_channel(plan_augmentation, draw):
    plan = plan_augmentation(low_resolution_probability=0.4, low_resolution_channel_probability=0.5)
    zooms = draw(plan).zoom
    is_coarse = zooms != 1
    assert is_coarse.mean(axis=0) == pytest.approx([0.2, 0.2], abs=0.06)
    assert is_coarse.all(axis=1).mean() == pytest.approx(0.1, abs=0.06)
    assert stats.kstest(zooms[is_coarse], stats.uniform(0.5, 0.5).cdf).pvalue > 0.001


def test_noise_is_decided_per_sample_with_a_key_of_its_own(plan_augmentation, draw):
    drawn = draw(plan_augmentation(noise_probability=0.3))
    is_noisy = drawn.noise_std > 0
    assert is_noisy.mean() == pytest.approx(0.3, abs=0.06)
    assert stats.kstest(drawn.noise_std[is_noisy], stats.uniform(0, 0.1).cdf).pvalue > 0.001
    assert len(np.unique(drawn.noise_key, axis=0)) == SAMPLES
    assert drawn.noise_key.min() >= 0
    assert 0.98 * 2**32 < drawn.noise_key.max() < 2**32


def test_allowed_axes_are_flipped_half_of_the_time_and_independently(plan_augmentation, draw):
    flips = draw(plan_augmentation(mirror_axes=(0, 2))).is_flipped
    assert flips.mean(axis=0) == pytest.approx([0.5, 0, 0.5], abs=0.06)
    assert (flips[:, 0] & flips[:, 2]).mean() == pytest.approx(0.25, abs=0.06)


def test_what_a_sample_gets_does_not_depend_on_its_batch(plan_augmentation, draw):
    names = [name for name in plan_augmentation().model_dump() if name.endswith("_probability")]
    plan = plan_augmentation(**dict.fromkeys(names, 0.5), mirror_axes=(0, 1, 2))
    together, alone = draw(plan, count=6), draw(plan, count=1, first=4)
    elsewhere = draw(plan, count=1, first=4, iteration=1)
    for field in fields(PatchParameters):
        assert np.array_equal(getattr(together, field.name)[4:5], getattr(alone, field.name))
    assert not np.array_equal(elsewhere.noise_key, alone.noise_key)


def test_one_decision_does_not_shift_the_others(plan_augmentation, draw):
    one = draw(plan_augmentation(rotation_probability=1.0, gamma_probability=1.0), count=4)
    other = draw(plan_augmentation(blur_probability=1.0, gamma_probability=1.0), count=4)
    assert np.array_equal(one.gamma, other.gamma)
    assert (one.gamma != 1).all()
