import random
from functools import partial

import numpy as np
import pytest
import torch
from autoseg.training.mask_augmentation import AugmentedMasks
from scipy.ndimage import gaussian_filter

from autoseg.training.augmentation import build_augmentation, draw_around_one, finish_patch


@pytest.fixture(autouse=True)
def _fixed_random_numbers():
    np.random.seed(0)
    random.seed(0)


def draw_patch(shape=(8, 10, 12), channels=2):
    generator = np.random.default_rng(1)
    image = generator.normal(size=(channels, *shape)).astype(np.float32)
    return image, generator.integers(0, 3, size=shape).astype(np.int16)


def augment(plan, image, label_map, masked=()):
    return build_augmentation(plan, label_map.shape, masked)(image.copy(), label_map.copy())


@pytest.mark.parametrize("shape", [(8, 10, 12), (8, 10)])
def test_an_augmentation_without_any_probability_changes_nothing(plan_augmentation, shape):
    image, label_map = draw_patch(shape)
    same_image, same_labels = augment(plan_augmentation(), image, label_map)
    assert np.array_equal(same_image, image)
    assert np.array_equal(same_labels, label_map)
    assert (same_image.dtype, same_labels.dtype) == (np.float32, np.int16)
    assert same_image.flags.c_contiguous


@pytest.mark.parametrize("shape", [(16, 18, 20), (40, 40)])
def test_everything_at_once_keeps_shapes_and_types(plan_augmentation, shape):
    names = [name for name in plan_augmentation().model_dump() if name.endswith("_probability")]
    plan = plan_augmentation(**dict.fromkeys(names, 1.0), mirror_axes=tuple(range(len(shape))))
    image, label_map = draw_patch(tuple(extent + 6 for extent in shape))
    changed, labels = build_augmentation(plan, shape, (1,))(image, label_map)
    assert changed.shape == (2, *shape)
    assert (changed.dtype, labels.dtype) == (np.float32, np.int16)
    assert np.isfinite(changed).all()
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_the_range_of_the_noise_is_one_of_standard_deviations(plan_augmentation):
    image, label_map = draw_patch((20, 20, 20))
    plan = plan_augmentation(noise_probability=1.0, noise_std_range=(0.3, 0.3))
    noise = augment(plan, image, label_map)[0] - image
    assert noise.std(axis=(1, 2, 3)) == pytest.approx([0.3, 0.3], rel=0.05)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05


def test_blur_is_gaussian_and_chooses_channels(plan_augmentation):
    image, label_map = draw_patch()
    plan = plan_augmentation(blur_probability=1.0, blur_channel_probability=1.0, blur_sigma_range_voxels=(0.75, 0.75))
    expected = np.stack([gaussian_filter(channel, 0.75) for channel in image])
    assert np.allclose(augment(plan, image, label_map)[0], expected)
    some = plan_augmentation(blur_probability=1.0, blur_channel_probability=0.5)
    changed = np.asarray([(augment(some, image, label_map)[0] != image).any(axis=(1, 2, 3)) for _ in range(200)])
    assert changed.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.12)
    assert (changed[:, 0] & changed[:, 1]).mean() == pytest.approx(0.25, abs=0.1)


def test_blur_is_drawn_per_axis(plan_augmentation):
    image, label_map = np.zeros((1, 9, 9, 9), dtype=np.float32), np.zeros((9, 9, 9), dtype=np.int16)
    image[0, 4, 4, 4] = 1
    plan = plan_augmentation(blur_probability=1.0, blur_channel_probability=1.0)
    blurred = augment(plan, image, label_map)[0][0]
    neighbours = [blurred[5, 4, 4], blurred[4, 5, 4], blurred[4, 4, 5]]
    assert max(neighbours) > 1.05 * min(neighbours)


def test_brightness_multiplies_every_channel_by_its_own_factor(plan_augmentation):
    image, label_map = draw_patch()
    factors = augment(plan_augmentation(brightness_probability=1.0), image, label_map)[0] / image
    assert factors.std(axis=(1, 2, 3)) == pytest.approx([0, 0], abs=1e-5)
    first, second = factors.mean(axis=(1, 2, 3))
    assert 0.75 <= first <= 1.25
    assert first != pytest.approx(second)


def test_factors_below_and_above_one_are_equally_likely():
    draws = np.asarray([draw_around_one((0.9, 3.0)) for _ in range(2000)])
    assert np.mean(draws < 1) == pytest.approx(0.5, abs=0.04)
    assert (draws.min(), draws.max()) == pytest.approx((0.9, 3.0), abs=0.02)
    assert draw_around_one((2.0, 2.0)) == 2.0


def test_contrast_spreads_about_the_mean_and_keeps_the_range(plan_augmentation):
    image, label_map = draw_patch()
    plan = plan_augmentation(contrast_probability=1.0, contrast_range=(1.2, 1.2))
    for before, after in zip(image, augment(plan, image, label_map)[0], strict=True):
        expected = np.clip((before - before.mean()) * 1.2 + before.mean(), before.min(), before.max())
        assert np.allclose(after, expected, atol=1e-5)


@pytest.mark.parametrize(("in_plane_only", "coarse"), [(False, (4, 5, 6)), (True, (8, 5, 6))])
def test_low_resolution_goes_down_to_the_nearest_voxel_and_up_linearly(plan_augmentation, in_plane_only, coarse):
    image, label_map = draw_patch()
    plan = plan_augmentation(
        low_resolution_probability=1.0,
        low_resolution_channel_probability=1.0,
        low_resolution_range=(0.5, 0.5),
        in_plane_only=in_plane_only,
    )
    down = torch.nn.functional.interpolate(torch.from_numpy(image)[None], size=coarse, mode="nearest-exact")
    up = torch.nn.functional.interpolate(down, size=image.shape[1:], mode="trilinear", align_corners=False)
    assert np.allclose(augment(plan, image, label_map)[0], up[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(("name", "sign"), [("gamma_probability", 1.0), ("inverted_gamma_probability", -1.0)])
def test_gamma_bends_the_range_and_keeps_mean_and_spread(plan_augmentation, name, sign):
    image, label_map = draw_patch()
    plan = plan_augmentation(**{name: 1.0, "gamma_range": (1.5, 1.5)})
    for before, after in zip(sign * image, sign * augment(plan, image, label_map)[0], strict=True):
        bent = ((before - before.min()) / np.ptp(before)) ** 1.5
        expected = (bent - bent.mean()) / bent.std() * before.std() + before.mean()
        assert np.allclose(after, expected, atol=1e-4)


def test_mirroring_flips_image_and_labels_alike_and_each_axis_half_of_the_time(plan_augmentation):
    image, label_map = draw_patch((4, 5, 6))
    plan = plan_augmentation(mirror_axes=(0, 2))
    flips = dict.fromkeys(((), (0,), (2,), (0, 2)), 0)
    for _ in range(200):
        mirrored, labels = augment(plan, image, label_map)
        found = [axes for axes in flips if np.array_equal(mirrored[0], np.flip(image[0], axes))]
        assert len(found) == 1
        assert np.array_equal(labels, np.flip(label_map, found[0]))
        flips[found[0]] += 1
    assert all(30 < count < 70 for count in flips.values())


def test_masked_channels_are_zero_outside_the_nonzero_region(plan_augmentation):
    image, label_map = draw_patch()
    label_map[:, :5] = -1
    plan = plan_augmentation(noise_probability=1.0, mirror_axes=(0,))
    changed, labels = augment(plan, image, label_map, masked=(1,))
    assert (changed[1, :, :5] == 0).all()
    assert (changed[0, :, :5] != 0).all()
    assert (labels[:, :5] == 0).all()
    assert (changed[1, :, 5:] != 0).all()


def test_finishing_masks_the_named_channels_only():
    image, label_map = draw_patch()
    label_map[0] = -1
    finished, labels = finish_patch(image.copy(), label_map, (0,))
    assert (finished[0, 0] == 0).all()
    assert np.array_equal(finished[1], image[1])
    assert np.array_equal(labels[1:], label_map[1:])
    assert (labels[0] == 0).all()
    assert (label_map[0] == -1).all()


CASCADE_PLAN = {"mask_change_probability": 0.0, "component_removal_probability": 0.0}


def augment_cascade(masks, image, label_map, previous):
    plan = masks.plan
    augmentation = build_augmentation(plan, label_map.shape, (0,), append_masks=masks)
    return augmentation(image.copy(), label_map.copy(), previous.copy())


def test_masks_of_the_previous_stage_move_with_the_reference_labels(plan_augmentation, mask_input):
    plan = plan_augmentation(**CASCADE_PLAN, rotation_probability=1.0, scaling_probability=1.0, mirror_axes=(0, 1, 2))
    image, label_map = draw_patch((12, 14, 16))
    label_map[:2] = -1
    changed, labels = augment_cascade(AugmentedMasks(input=mask_input(2), plan=plan), image, label_map, label_map)
    assert changed.shape == (4, 12, 14, 16)
    assert labels.any()
    for index, label in enumerate((1, 2)):
        assert np.array_equal(changed[2 + index], labels == label)


def test_changes_of_intensities_leave_the_masks_alone(plan_augmentation, mask_input):
    names = ["noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"]
    plan = plan_augmentation(**CASCADE_PLAN, **{f"{name}_probability": 1.0 for name in names})
    image, label_map = draw_patch()
    previous = np.roll(label_map, 1, axis=2)
    changed, _ = augment_cascade(AugmentedMasks(input=mask_input(2), plan=plan), image, label_map, previous)
    assert not np.isclose(changed[:2], image).all(axis=(1, 2, 3)).any()
    assert np.array_equal(changed[2:], [previous == 1, previous == 2])


def test_the_image_is_changed_alike_with_and_without_masks(plan_augmentation, mask_input):
    # Numpy's generator alone decides here: the checks of types in tests draw from Python's.
    always = {"rotation_probability": 1.0, "noise_probability": 1.0, "noise_std_range": (0.1, 0.1)}
    plan = plan_augmentation(**always, mirror_axes=(0, 1, 2))
    image, label_map = draw_patch()
    masks = AugmentedMasks(input=mask_input(2), plan=plan)
    build = partial(build_augmentation, plan, label_map.shape, (0,))
    patches = []
    for augmentation, label_maps in ((build(), [label_map]), (build(append_masks=masks), [label_map, label_map])):
        np.random.seed(0)
        patches.append(augmentation(image.copy(), *label_maps)[0])
    assert np.array_equal(patches[0], patches[1][:2])
