"""The reference's transforms against a plain spelling of nnU-Net's pipeline: equal bit for bit.

Nothing here draws from `random`, from which the checks of types in tests draw, too: its ranges have one value.
"""

from math import radians

import numpy as np
import pytest
from batchgenerators.transforms.color_transforms import ContrastAugmentationTransform, GammaTransform
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform

from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS, build_reference_transforms
from autoseg.training.augmentation.mask_component_removal import remove_components
from autoseg.training.augmentation.mask_morphology import change_masks
from autoseg.training.augmentation.masks import encode_masks
from autoseg.training.augmentation.spatial import (
    compute_source_positions,
    crop_centre,
    draw_spatial_parameters,
    interpolate_image,
    interpolate_label_map,
)
from autoseg.training.augmentation.transform import SPAWN_KEY, build_generator

CASES = [((20, 22), (12, 14), False), ((14, 16, 18), (8, 10, 12), False), ((8, 16, 18), (8, 10, 12), True)]
OFTEN = {"probability": 0.6}
FIXED = {"noise": {"std_range": (0.1, 0.1)}, "blur": {"sigma_range_voxels": (0.75, 0.75)}}


def list_plans(dimensions, *, in_plane_only):
    """The reference, more often, and without ranges that are drawn from `random`."""
    patch = (8, 64, 64) if in_plane_only else (64,) * dimensions
    reference = build_reference_transforms(patch, mirror_axes=tuple(range(dimensions)))
    often = {"rotation_probability": 0.5, "rotation_limit_degrees": 180.0, "scaling_probability": 0.5}
    changes = {"spatial": often, "mirror": {}}
    return tuple(
        part.model_copy(update=changes.get(part.name, OFTEN | FIXED.get(part.name, {})))
        for part in (*reference, *REFERENCE_MASK_TRANSFORMS)
    )


def change_plainly(plans, image, label_maps, patch):
    """Spatial change, batchgenerators' own transforms, masked channels, masks: one after the other."""
    spatial, noise, blur, brightness, contrast, low, inverted, gamma, mirror, morphology, removal = plans
    arrays = warp_plainly(spatial, [image, *label_maps], patch)
    batch = {"data": arrays[0][None], "seg": np.stack(arrays[1:])[None]}
    batch = GaussianNoiseTransform(noise.std_range, p_per_sample=noise.probability)(**batch)
    batch = GaussianBlurTransform(
        blur.sigma_range_voxels,
        different_sigma_per_axis=True,
        p_per_channel=blur.channel_probability,
        p_per_sample=blur.probability,
    )(**batch)
    if np.random.uniform() < brightness.probability:
        for channel in batch["data"][0]:
            lower, upper = (0.75, 1.0) if np.random.uniform() < 0.5 else (1.0, 1.25)
            channel *= draw_twice(float(np.random.uniform(lower, upper)))
    batch = ContrastAugmentationTransform(contrast.factor_range, p_per_sample=contrast.probability)(**batch)
    batch = SimulateLowResolutionTransform(
        low.zoom_range,
        per_channel=True,
        p_per_channel=low.channel_probability,
        order_downsample=0,
        order_upsample=1,
        p_per_sample=low.probability,
        ignore_axes=(0,) if low.in_plane_only else None,
    )(**batch)
    for part in (inverted, gamma):
        batch = GammaTransform(
            part.exponent_range,
            invert_image=part.inverted,
            per_channel=True,
            retain_stats=True,
            p_per_sample=part.probability,
        )(**batch)
    batch = MirrorTransform(axes=mirror.axes)(**batch)
    changed, (labels, previous) = batch["data"][0], batch["seg"][0]
    changed[0][labels == -1] = 0
    masks = encode_masks(previous, (1, 2))
    if np.random.uniform() < morphology.probability:
        change_masks(masks, morphology)
    if np.random.uniform() < removal.probability:
        remove_components(masks, removal)
    return np.concatenate([changed, masks], dtype=np.float32), np.maximum(labels, 0)


def draw_twice(factor):
    """batchgenerators' function for brightness draws once for nothing, then from a range of one value."""
    np.random.uniform()
    return factor


def warp_plainly(plan, arrays, patch):
    warped = len(patch) - plan.in_plane_only
    parameters = draw_spatial_parameters(plan, patch[-warped:])
    if parameters.angles_radians is None and parameters.scale is None:
        return [crop_centre(array, patch) for array in arrays]
    positions = compute_source_positions(parameters, patch[-warped:], arrays[0].shape[-warped:])
    image, *label_maps = (part.reshape(-1, *part.shape[-warped:]) for part in arrays)
    return [
        np.stack([interpolate_image(part, positions) for part in image]).reshape(-1, *patch),
        *(np.stack([interpolate_label_map(part, positions) for part in parts]).reshape(patch) for parts in label_maps),
    ]


@pytest.mark.parametrize(("cut", "patch", "in_plane_only"), CASES)
def test_in_worker_processes_a_sample_is_that_of_the_plain_pipeline(draw_patch, augment, cut, patch, *, in_plane_only):
    plans = list_plans(len(cut), in_plane_only=in_plane_only)
    image, label_map = draw_patch(cut)
    label_map = np.kron(label_map, np.ones((4,) * len(cut), np.int16))[tuple(map(slice, cut))]
    label_map[..., :2] = -1
    previous = np.roll(label_map, 2, axis=-2)
    for seed in range(12):
        np.random.seed(seed)
        found, found_labels = augment(
            plans, image, label_map, previous, patch=patch, masked=(0,), foreground_labels=(1, 2)
        )
        np.random.seed(seed)
        expected, expected_labels = change_plainly(plans, image.copy(), [label_map, previous], patch)
        assert np.array_equal(found, expected)
        assert np.array_equal(found_labels, expected_labels)


def draw_plainly(plans, generator, *, dimensions, channels):
    """All numbers of one sample, in the order of the reference."""
    spatial, noise, blur, brightness, contrast, low, inverted, gamma, mirror, *_ = plans
    angles = 1 if dimensions - spatial.in_plane_only == 2 else 3

    def decide(probability):
        return np.asarray(generator.random() < probability)

    def draw_factors(part, limits):
        is_changed, (lower, upper) = decide(part.probability), limits
        is_below, position = generator.random(channels) < 0.5, generator.random(channels)
        return np.where(is_changed, np.where(is_below, lower + position * (1 - lower), 1 + position * (upper - 1)), 1)

    is_rotated, limit = decide(spatial.rotation_probability), radians(spatial.rotation_limit_degrees)
    turned = generator.uniform(-limit, limit, size=angles)
    is_scaled, scale = decide(spatial.scaling_probability), generator.uniform(*spatial.scaling_range)
    is_noisy, std = decide(noise.probability), generator.uniform(*noise.std_range)
    key = generator.integers(2**32 - 1, size=4, endpoint=True)
    is_blurred = decide(blur.probability) & (generator.random((channels, 1)) < blur.channel_probability)
    sigmas = generator.uniform(*blur.sigma_range_voxels, size=(channels, dimensions))
    factors = [draw_factors(part, part.factor_range) for part in (brightness, contrast)]
    is_coarse = decide(low.probability) & (generator.random(channels) < low.channel_probability)
    zooms = generator.uniform(*low.zoom_range, size=channels)
    exponents = [draw_factors(part, part.exponent_range) for part in (inverted, gamma)]
    return [
        np.where(is_rotated, turned, 0),
        np.where(is_scaled, scale, 1),
        np.where(is_noisy, std, 0),
        key,
        np.where(is_blurred, sigmas, 0),
        *factors,
        np.where(is_coarse, zooms, 1),
        *exponents,
        (generator.random(dimensions) < 0.5) & np.isin(np.arange(dimensions), mirror.axes),
    ]


def draw_masks_plainly(plans, generator, labels):
    morphology, removal = plans[-2:]
    is_any_changed = generator.random() < morphology.probability
    is_any_reduced = generator.random() < removal.probability
    return [
        generator.permutation(labels),
        is_any_changed & (generator.random(labels) < morphology.label_probability),
        generator.integers(3, size=labels, endpoint=True),
        generator.uniform(*morphology.radius_range_voxels, size=labels),
        is_any_reduced & (generator.random(labels) < removal.label_probability),
        generator.random(labels),
    ]


@pytest.mark.parametrize(("cut", "patch", "in_plane_only"), CASES)
def test_for_a_device_the_numbers_are_drawn_in_the_order_of_the_reference(
    list_seeds, draw, cut, patch, *, in_plane_only
):
    plans = list_plans(len(patch), in_plane_only=in_plane_only)
    spatial, noise, blur, *simple, morphology, removal = draw(plans, count=20, patch=patch, foreground_labels=(1, 2))
    found = [spatial.angles_radians, spatial.scale, noise.std, noise.key, blur, *simple]
    masks = [morphology.order, morphology.is_changed, morphology.operation, morphology.radius_voxels]
    for sample, seeds in enumerate(list_seeds(20)):
        expected = draw_plainly(plans, build_generator(seeds, SPAWN_KEY), dimensions=len(patch), channels=2)
        assert all(map(are_equal_but_for_rounding, (values[sample] for values in found), expected))
        expected = draw_masks_plainly(plans, build_generator(seeds, (2,)), 2)
        drawn = [values[sample] for values in (*masks, removal.is_reduced, removal.choice)]
        assert all(map(np.array_equal, drawn[:3] + drawn[4:], expected[:3] + expected[4:]))
        assert are_equal_but_for_rounding(drawn[3], expected[3])


def are_equal_but_for_rounding(drawn, expected):
    """Some compilers fuse the product and the sum of numpy's uniform numbers."""
    return np.allclose(drawn, expected, rtol=1e-14, atol=1e-15)
