"""The device's patches against those of worker processes: alike where they are random."""

import numpy as np
import pytest
from scipy import stats

from autoseg.training.augmentation.spatial import crop_centre

SAMPLES = 300


@pytest.fixture
def augment_one_by_one(augment):
    """Changes the samples of a batch as worker processes do."""

    def apply(plans, image, label_map, **options):
        changed = [augment(plans, *sample, **options) for sample in zip(image, label_map, strict=True)]
        return np.stack([part for part, _ in changed]), np.stack([part for _, part in changed])

    return apply


HALF = {"probability": 0.5}
INTENSITIES = {
    "noise": ({"name": "noise"} | HALF,),
    "blur": ({"name": "blur"} | HALF,),
    "brightness": ({"name": "brightness"} | HALF,),
    "contrast": ({"name": "contrast"} | HALF,),
    "low resolution": ({"name": "low_resolution"} | HALF,),
    "inverted gamma": ({"name": "gamma", "inverted": True} | HALF,),
    "gamma": ({"name": "gamma"} | HALF,),
}
INTENSITIES["all"] = tuple(part | {"probability": 0.4} for (part,) in INTENSITIES.values())


@pytest.fixture
def textured():
    """Many copies of one image with structure at all scales, skewed as real intensities are."""
    generator = np.random.default_rng(3)
    frequency = np.sqrt(sum(part**2 for part in np.meshgrid(*[np.fft.fftfreq(16)] * 3, indexing="ij")))
    spectrum = np.fft.fftn(generator.normal(size=(2, 16, 16, 16)), axes=(1, 2, 3)) / (0.1 + frequency)
    image = np.exp(0.4 * np.fft.ifftn(spectrum, axes=(1, 2, 3)).real).astype(np.float32)
    return np.tile(image[None], (SAMPLES, 1, 1, 1, 1)), np.zeros((SAMPLES, 16, 16, 16), dtype=np.int16)


@pytest.mark.parametrize("name", INTENSITIES)
def test_intensities_change_as_often_and_as_much_as_in_worker_processes(
    plan_transforms, augment_on_device, augment_one_by_one, *, textured, name
):
    plans, (image, label_map) = plan_transforms(*INTENSITIES[name]), textured
    found, _ = augment_on_device(plans, image, label_map)
    expected, _ = augment_one_by_one(plans, image, label_map)
    for channel in range(2):
        is_changed, was_changed = (
            (changed[:, channel] != image[:, channel]).any(axis=(1, 2, 3)) for changed in (found, expected)
        )
        assert is_changed.mean() == pytest.approx(was_changed.mean(), abs=4 * np.sqrt(0.5 / SAMPLES))
        assert is_changed.any()
        for measure in (np.mean, np.std, np.min, np.max, measure_skewness):
            drawn, known = (
                measure(changed[mask, channel], axis=(1, 2, 3))
                for changed, mask in ((found, is_changed), (expected, was_changed))
            )
            assert are_alike(drawn, known), measure.__name__
    assert np.allclose(measure_power(found), measure_power(expected), rtol=0.1)


def measure_skewness(values, axis):
    return stats.skew(values.reshape(len(values), -1), axis=1)


def are_alike(drawn, known):
    """Whether two samples may stem from one distribution; values that differ by rounding alone count as one."""
    drawn, known = (np.round(values.astype(np.float64), 3) for values in (drawn, known))
    return stats.ks_2samp(drawn, known).pvalue > 1e-4


def measure_power(image):
    """Mean power in shells of equal frequency."""
    power = (np.abs(np.fft.fftn(image[:, 0], axes=(1, 2, 3))) ** 2).mean(axis=0)
    frequency = np.sqrt(sum(part**2 for part in np.meshgrid(*[np.fft.fftfreq(16)] * 3, indexing="ij")))
    shell = np.minimum((frequency * 16).astype(int), 8)
    return np.bincount(shell.ravel(), power.ravel()) / np.bincount(shell.ravel())


@pytest.mark.parametrize("name", ["blur", "low resolution"])
def test_blur_and_low_resolution_take_high_frequencies_away(plan_transforms, augment_on_device, textured, name):
    image, label_map = textured
    power = measure_power(augment_on_device(plan_transforms(*INTENSITIES[name]), image, label_map)[0])
    assert power[7] < 0.97 * measure_power(image)[7]
    assert power[1] > 0.95 * measure_power(image)[1]


@pytest.mark.parametrize("in_plane_only", [False, True])
def test_patches_are_warped_as_often_and_as_much_as_in_worker_processes(
    plan_transforms, augment_on_device, augment_one_by_one, in_plane_only
):
    values = {"rotation_probability": 0.3, "scaling_probability": 0.3, "in_plane_only": in_plane_only}
    plans = plan_transforms(spatial=values)
    label_map = np.zeros((SAMPLES, 12, 20, 20), dtype=np.int16)
    label_map[:, 4:9, 6:12, 9:17] = 1
    image, patch = label_map[:, None].astype(np.float32), (12 if in_plane_only else 9, 14, 14)
    centre = crop_centre(label_map[0], patch)
    found = augment_on_device(plans, image, label_map, patch=patch)
    expected = augment_one_by_one(plans, image, label_map, patch=patch)
    for drawn, known in ((found[0][:, 0], expected[0][:, 0]), (found[1], expected[1])):
        moved, was_moved = ((patches != centre).any(axis=(1, 2, 3)).mean() for patches in (drawn, known))
        assert moved == pytest.approx(0.51, abs=0.12)
        assert was_moved == pytest.approx(0.51, abs=0.12)
        assert are_alike(drawn.sum(axis=(1, 2, 3)), known.sum(axis=(1, 2, 3)))
        for axis in (1, 2, 3):
            assert are_alike(find_centre(drawn, axis), find_centre(known, axis))


def find_centre(values, axis):
    others = tuple(other for other in (1, 2, 3) if other != axis)
    profile = values.astype(np.float64).sum(axis=others)
    return (profile * np.arange(profile.shape[1])).sum(axis=1) / profile.sum(axis=1)
