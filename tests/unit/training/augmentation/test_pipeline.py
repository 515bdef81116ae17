import numpy as np
import pytest

from autoseg.plan import TRANSFORM_PLANS
from autoseg.training.augmentation.pipeline import finish_patch
from autoseg.training.augmentation.transforms import TRANSFORMS, build_transforms, list_without_device_form

MOVED = {"rotation_probability": 1.0, "scaling_probability": 1.0}
INTENSITIES = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma")


@pytest.fixture(params=["worker", "device"])
def change(request, augment, augment_on_device):
    """Changes one patch in either form."""

    def in_worker(plans, image, *label_maps, **options):
        return augment(plans, image, *label_maps, **options)

    def on_device(plans, image, *label_maps, **options):
        changed, labels = augment_on_device(plans, image[None], *(part[None] for part in label_maps), **options)
        return changed[0], labels[0]

    return in_worker if request.param == "worker" else on_device


def test_every_transform_that_a_plan_can_list_is_carried_out_and_has_a_form_for_devices(plan_transforms):
    assert list(TRANSFORMS) == list(TRANSFORM_PLANS)
    plans = plan_transforms(**{name: {} for name in TRANSFORM_PLANS})
    transforms = build_transforms(plans, (8, 8))
    assert [type(transform) for transform in transforms] == list(TRANSFORMS.values())
    assert list_without_device_form(transforms) == []


@pytest.mark.parametrize("shape", [(8, 10, 12), (8, 10)])
def test_without_transforms_and_with_those_that_never_happen_nothing_changes(
    plan_transforms, draw_patch, change, shape
):
    image, label_map = draw_patch(shape)
    never = plan_transforms(spatial={}, **{name: {"probability": 0.0} for name in INTENSITIES})
    for plans in ((), never):
        same_image, same_labels = change(plans, image, label_map)
        assert np.array_equal(same_image, image)
        assert np.array_equal(same_labels, label_map)
        assert (same_image.dtype, same_labels.dtype) == (np.float32, np.int16)
        assert same_image.flags.c_contiguous


@pytest.mark.parametrize("shape", [(16, 18, 20), (40, 40)])
def test_everything_at_once_keeps_shapes_and_types(plan_transforms, draw_patch, change, shape):
    every = plan_transforms(spatial=MOVED, **{name: {} for name in (*INTENSITIES, "mirror")})
    image, label_map = draw_patch(tuple(extent + 6 for extent in shape))
    changed, labels = change(every, image, label_map, patch=shape, masked=(1,))
    assert changed.shape == (2, *shape)
    assert (changed.dtype, labels.dtype) == (np.float32, np.int16)
    assert np.isfinite(changed).all()
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_transforms_are_applied_in_the_order_of_the_list(plan_transforms, change):
    image, label_map = np.zeros((1, 40, 40), np.float32), np.zeros((40, 40), np.int16)
    noise, double = {"std_range": (0.1, 0.1)}, {"factor_range": (2.0, 2.0)}
    before = change(plan_transforms(noise=noise, brightness=double), image, label_map)[0]
    after = change(plan_transforms(brightness=double, noise=noise), image, label_map)[0]
    assert before.std() == pytest.approx(0.2, rel=0.1)
    assert after.std() == pytest.approx(0.1, rel=0.1)


def test_what_is_listed_twice_is_applied_twice_with_draws_of_its_own(plan_transforms, draw_patch, change):
    image, label_map = draw_patch((40, 40))
    double = {"name": "brightness", "factor_range": (2.0, 2.0)}
    assert np.allclose(change(plan_transforms(double, double), image, label_map)[0], 4 * image)
    noise = {"name": "noise", "std_range": (0.1, 0.1)}
    added = change(plan_transforms(noise, noise), image, label_map)[0] - image
    assert added.std() == pytest.approx(0.1 * np.sqrt(2), rel=0.1)
    gamma = {"name": "gamma", "exponent_range": (1.5, 1.5)}
    both = change(plan_transforms(gamma, gamma | {"inverted": True}), image, label_map)[0]
    other = change(plan_transforms(gamma | {"inverted": True}, gamma), image, label_map)[0]
    assert not np.allclose(both, other, atol=1e-3)


def test_masked_channels_are_zero_outside_the_nonzero_region(plan_transforms, draw_patch, change):
    image, label_map = draw_patch()
    label_map[:, :5] = -1
    plans = plan_transforms(noise={"std_range": (0.1, 0.1)}, mirror={"axes": (0,)})
    changed, labels = change(plans, image, label_map, masked=(1,))
    assert (changed[1, :, :5] == 0).all()
    assert (changed[0, :, :5] != 0).all()
    assert (labels[:, :5] == 0).all()
    assert (changed[1, :, 5:] != 0).all()


def test_finishing_masks_the_named_channels_only(draw_patch):
    image, label_map = draw_patch()
    label_map[0] = -1
    finished, labels = finish_patch(image.copy(), label_map, (0,))
    assert (finished[0, 0] == 0).all()
    assert np.array_equal(finished[1], image[1])
    assert np.array_equal(labels[1:], label_map[1:])
    assert (labels[0] == 0).all()
    assert (label_map[0] == -1).all()


def test_masks_of_the_previous_stage_move_with_the_reference_labels(plan_transforms, draw_patch, change):
    plans = plan_transforms(spatial=MOVED, mirror={"axes": (0, 1, 2)})
    image, label_map = draw_patch((12, 14, 16))
    label_map[:2] = -1
    changed, labels = change(plans, image, label_map, label_map, masked=(0,), foreground_labels=(1, 2))
    assert changed.shape == (4, 12, 14, 16)
    assert labels.any()
    assert np.array_equal(changed[2:], [labels == 1, labels == 2])


def test_changes_of_intensities_leave_the_masks_alone(plan_transforms, draw_patch, change):
    plans = plan_transforms(**{name: {} for name in INTENSITIES if name not in {"blur", "low_resolution"}})
    image, label_map = draw_patch()
    previous = np.roll(label_map, 1, axis=2)
    changed, _ = change(plans, image, label_map, previous, foreground_labels=(1, 2))
    assert not np.isclose(changed[:2], image).all(axis=(1, 2, 3)).any()
    assert np.array_equal(changed[2:], [previous == 1, previous == 2])


def test_the_image_is_changed_alike_with_and_without_masks(plan_transforms, draw_patch, augment):
    # Numpy's generator alone decides here: the checks of types in tests draw from Python's.
    noise = {"std_range": (0.1, 0.1)}
    plans = plan_transforms(spatial={"rotation_probability": 1.0}, noise=noise, mirror={"axes": (0, 1, 2)})
    image, label_map = draw_patch()
    patches = []
    for label_maps, foreground_labels in (([label_map], ()), ([label_map, label_map], (1, 2))):
        np.random.seed(0)
        patches.append(augment(plans, image, *label_maps, foreground_labels=foreground_labels)[0])
    assert np.array_equal(patches[0], patches[1][:2])


@pytest.mark.parametrize("name", ["mask_morphology", "mask_component_removal"])
def test_a_transform_of_masks_changes_nothing_else_and_may_stand_anywhere(plan_transforms, change, name):
    image, label_map = np.zeros((1, 20, 20), np.float32), np.zeros((20, 20), np.int16)
    previous = label_map.copy()
    previous[4:9, 4:9], previous[12:15, 3:8], previous[1], previous[16, 16] = 1, 2, -1, 1
    mask = {name: {"label_probability": 1.0}}
    for plans in (plan_transforms(**mask, mirror={}), plan_transforms(mirror={}, **mask)):
        changed, labels = change(plans, image, label_map, previous, foreground_labels=(1, 2))
        assert not labels.any()
        assert not changed[0].any()
        expected = np.stack([previous == 1, previous == 2])
        assert changed[1:].sum() != expected.sum()
        assert (changed[1:].sum(axis=0) <= 1).all()


def test_a_second_transform_of_masks_draws_anew(plan_transforms, draw):
    part = {"name": "mask_morphology"}
    first, second = draw(plan_transforms(part, part), foreground_labels=(1, 2))
    (alone,) = draw(plan_transforms(part), foreground_labels=(1, 2))
    assert np.array_equal(first.radius_voxels, alone.radius_voxels)
    assert not np.isclose(first.radius_voxels, second.radius_voxels).any()


EVERYTHING = {
    "spatial": {"rotation_probability": 0.5, "scaling_probability": 0.5},
    **{name: {"probability": 0.5} for name in INTENSITIES},
    "mirror": {"axes": (0, 1)},
}


@pytest.mark.parametrize(
    ("cut", "patch", "in_plane_only"),
    [((14, 16, 18), (8, 10, 12), False), ((8, 16, 18), (8, 10, 12), True), ((20, 22), (12, 14), False)],
)
def test_a_batch_is_reproducible_and_a_sample_does_not_depend_on_it(
    plan_transforms, draw_image, augment_on_device, *, cut, patch, in_plane_only
):
    in_plane = {"in_plane_only": in_plane_only}
    plans = plan_transforms(
        **EVERYTHING
        | {"spatial": EVERYTHING["spatial"] | in_plane, "low_resolution": EVERYTHING["low_resolution"] | in_plane}
    )
    image = draw_image(cut, batch=6)
    label_map = np.random.default_rng(2).integers(0, 3, size=(6, *cut)).astype(np.int16)
    first_image, first_labels = augment_on_device(plans, image, label_map, patch=patch)
    again_image, again_labels = augment_on_device(plans, image, label_map, patch=patch)
    assert first_image.shape == (6, 2, *patch)
    assert np.array_equal(first_image, again_image)
    assert np.array_equal(first_labels, again_labels)
    for sample in range(6):
        alone = slice(sample, sample + 1)
        alone_image, alone_labels = augment_on_device(plans, image[alone], label_map[alone], patch=patch, first=sample)
        # Sums over an image may be added up in another order in a batch of another size.
        assert np.allclose(alone_image[0], first_image[sample], atol=1e-4)
        assert np.array_equal(alone_labels[0], first_labels[sample])


def test_one_decision_does_not_shift_the_others(plan_transforms, draw):
    one = plan_transforms(spatial={"rotation_probability": 1.0}, blur={"probability": 0.0}, gamma={})
    other = plan_transforms(spatial={}, blur={}, gamma={})
    first, second = draw(one, count=4)[-1], draw(other, count=4)[-1]
    assert np.array_equal(first, second)
    assert (first != 1).all()
