"""The device's patches against those of batchgenerators: equal where nothing is random, alike where it is."""

import random

import numpy as np
import pytest
import torch
from autoseg.training.device.augmentation import DeviceAugmentation, Patches, merge
from autoseg.training.device.parameters import draw_parameters
from autoseg.training.spatial import crop_centre
from scipy import stats

from autoseg.training.augmentation import build_augmentation

SAMPLES = 300


@pytest.fixture
def augment(list_seeds, device):
    """Changes the patches of a batch on the device; cuts are as large as patches unless said."""

    def apply(plan, image, label_map, *, patch=None, masked=(), first=0):
        patch, seeds = patch or label_map.shape[1:], list_seeds(len(image), first=first)
        parameters = draw_parameters(plan, seeds, channels=image.shape[1], dimensions=len(patch))
        is_moved = parameters.is_moved
        starts = [cut // 2 - extent // 2 for cut, extent in zip(label_map.shape[1:], patch, strict=True)]
        centre = tuple(slice(start, start + extent) for start, extent in zip(starts, patch, strict=True))
        augmentation = DeviceAugmentation(plan=plan, patch_voxels=patch, masked_channels=masked)
        changed = augmentation(
            still=to_patches(image[~is_moved][(..., *centre)], label_map[~is_moved][(..., *centre)], device),
            moved=to_patches(image[is_moved], label_map[is_moved], device),
            parameters=parameters,
        )
        return changed.image.cpu().numpy(), changed.label_maps[:, 0].cpu().numpy()

    return apply


def to_patches(image, label_map, device):
    return Patches(
        image=torch.from_numpy(image.copy()).to(device),
        label_maps=torch.from_numpy(label_map[:, None].copy()).to(device),
    )


def augment_on_processor(plan, image, label_map, *, patch=None):
    np.random.seed(0)
    random.seed(0)
    change = build_augmentation(plan, patch or label_map.shape[1:], ())
    changed = [change(*sample) for sample in zip(image.copy(), label_map.copy(), strict=True)]
    return np.stack([part for part, _ in changed]), np.stack([part for _, part in changed])


def draw_labels(batch, shape):
    return np.random.default_rng(2).integers(0, 3, size=(batch, *shape)).astype(np.int16)


@pytest.mark.parametrize("shape", [(8, 10, 12), (8, 10)])
def test_an_augmentation_without_any_probability_changes_nothing(plan_augmentation, draw_image, augment, shape):
    image, label_map = draw_image(shape), draw_labels(3, shape)
    same_image, same_labels = augment(plan_augmentation(), image, label_map)
    assert np.array_equal(same_image, image)
    assert np.array_equal(same_labels, label_map)


EVERYTHING = {
    "rotation_probability": 0.5,
    "scaling_probability": 0.5,
    "noise_probability": 0.5,
    "blur_probability": 0.5,
    "brightness_probability": 0.5,
    "contrast_probability": 0.5,
    "low_resolution_probability": 0.5,
    "inverted_gamma_probability": 0.5,
    "gamma_probability": 0.5,
    "mirror_axes": (0, 1),
}


@pytest.mark.parametrize(
    ("cut", "patch", "in_plane_only"),
    [((14, 16, 18), (8, 10, 12), False), ((8, 16, 18), (8, 10, 12), True), ((20, 22), (12, 14), False)],
)
def test_everything_at_once_is_reproducible_and_does_not_depend_on_the_batch(
    plan_augmentation, draw_image, augment, *, cut, patch, in_plane_only
):
    plan = plan_augmentation(**EVERYTHING, in_plane_only=in_plane_only)
    image, label_map = draw_image(cut, batch=6), draw_labels(6, cut)
    first_image, first_labels = augment(plan, image, label_map, patch=patch)
    again_image, again_labels = augment(plan, image, label_map, patch=patch)
    assert first_image.shape == (6, 2, *patch)
    assert np.isfinite(first_image).all()
    assert set(np.unique(first_labels)) <= {0, 1, 2}
    assert np.array_equal(first_image, again_image)
    assert np.array_equal(first_labels, again_labels)
    for sample in range(6):
        alone = slice(sample, sample + 1)
        alone_image, alone_labels = augment(plan, image[alone], label_map[alone], patch=patch, first=sample)
        # Sums over an image may be added up in another order in a batch of another size.
        assert np.allclose(alone_image[0], first_image[sample], atol=1e-4)
        assert np.array_equal(alone_labels[0], first_labels[sample])


def test_mirroring_flips_image_and_labels_alike(plan_augmentation, draw_image, augment):
    image, label_map = draw_image((4, 5, 6), batch=40), draw_labels(40, (4, 5, 6))
    mirrored, labels = augment(plan_augmentation(mirror_axes=(0, 2)), image, label_map)
    flips = dict.fromkeys(((), (0,), (2,), (0, 2)), 0)
    for sample in range(40):
        found = [axes for axes in flips if np.array_equal(mirrored[sample, 0], np.flip(image[sample, 0], axes))]
        assert len(found) == 1
        assert np.array_equal(labels[sample], np.flip(label_map[sample], found[0]))
        flips[found[0]] += 1
    assert all(count > 1 for count in flips.values())


def test_masked_channels_are_zero_outside_the_nonzero_region(plan_augmentation, draw_image, augment):
    image, label_map = draw_image(), draw_labels(3, (8, 10, 12))
    label_map[:, :, :5] = -1
    plan = plan_augmentation(noise_probability=1.0, noise_std_range=(0.1, 0.1))
    changed, labels = augment(plan, image, label_map, masked=(1,))
    assert (changed[:, 1, :, :5] == 0).all()
    assert (changed[:, 0, :, :5] != 0).all()
    assert (changed[:, 1, :, 5:] != 0).all()
    assert (labels[:, :, :5] == 0).all()


def test_samples_keep_their_places_when_some_are_moved():
    def number(values):
        return Patches(
            image=torch.tensor(values, dtype=torch.float32)[:, None, None],
            label_maps=torch.tensor(values, dtype=torch.int16)[:, None, None],
        )

    merged = merge(number([0.0, 2.0, 3.0]), number([1.0, 4.0]), np.asarray([False, True, False, False, True]))
    assert merged.image.flatten().tolist() == [0, 1, 2, 3, 4]
    assert merged.label_maps.flatten().tolist() == [0, 1, 2, 3, 4]


INTENSITIES = {
    "noise": {"noise_probability": 0.5},
    "blur": {"blur_probability": 0.5},
    "brightness": {"brightness_probability": 0.5},
    "contrast": {"contrast_probability": 0.5},
    "low resolution": {"low_resolution_probability": 0.5},
    "inverted gamma": {"inverted_gamma_probability": 0.5},
    "gamma": {"gamma_probability": 0.5},
    "all": {name: 0.4 for name in EVERYTHING if name.endswith("_probability") and name[:3] not in {"rot", "sca"}},
}


@pytest.fixture
def textured():
    """Many copies of one image with structure at all scales, skewed as real intensities are."""
    generator = np.random.default_rng(3)
    frequency = np.sqrt(sum(part**2 for part in np.meshgrid(*[np.fft.fftfreq(16)] * 3, indexing="ij")))
    spectrum = np.fft.fftn(generator.normal(size=(2, 16, 16, 16)), axes=(1, 2, 3)) / (0.1 + frequency)
    image = np.exp(0.4 * np.fft.ifftn(spectrum, axes=(1, 2, 3)).real).astype(np.float32)
    return np.tile(image[None], (SAMPLES, 1, 1, 1, 1)), np.zeros((SAMPLES, 16, 16, 16), dtype=np.int16)


@pytest.mark.parametrize("name", INTENSITIES)
def test_intensities_change_as_often_and_as_much_as_on_the_processor(plan_augmentation, augment, textured, name):
    plan, (image, label_map) = plan_augmentation(**INTENSITIES[name]), textured
    found, _ = augment(plan, image, label_map)
    expected, _ = augment_on_processor(plan, image, label_map)
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
def test_blur_and_low_resolution_take_high_frequencies_away(plan_augmentation, augment, textured, name):
    image, label_map = textured
    power = measure_power(augment(plan_augmentation(**INTENSITIES[name]), image, label_map)[0])
    assert power[7] < 0.97 * measure_power(image)[7]
    assert power[1] > 0.95 * measure_power(image)[1]


@pytest.mark.parametrize("in_plane_only", [False, True])
def test_patches_are_moved_as_often_and_as_much_as_on_the_processor(plan_augmentation, augment, in_plane_only):
    plan = plan_augmentation(rotation_probability=0.3, scaling_probability=0.3, in_plane_only=in_plane_only)
    label_map = np.zeros((SAMPLES, 12, 20, 20), dtype=np.int16)
    label_map[:, 4:9, 6:12, 9:17] = 1
    image, patch = label_map[:, None].astype(np.float32), (12 if in_plane_only else 9, 14, 14)
    centre = crop_centre(label_map[0], patch)
    found = augment(plan, image, label_map, patch=patch)
    expected = augment_on_processor(plan, image, label_map, patch=patch)
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
