import numpy as np
import pytest
import torch

from autoseg.plan.mirroring import MirrorPairsPlan
from autoseg.training.augmentation.mirror import MirrorPairs, exchange_labels
from autoseg.training.augmentation.transform import Patches

AXES = ((), (0,), (2,), (0, 2))


def find_flip(mirrored, image, labels, label_map):
    """The one combination of axes that explains image and labels."""
    found = [axes for axes in AXES if np.array_equal(mirrored[0], np.flip(image[0], axes))]
    assert len(found) == 1
    assert np.array_equal(labels, np.flip(label_map, found[0]))
    return found[0]


def test_mirroring_flips_image_and_labels_alike_and_each_axis_half_of_the_time(plan_transforms, draw_patch, augment):
    image, label_map = draw_patch((4, 5, 6))
    flips = dict.fromkeys(AXES, 0)
    for _ in range(200):
        mirrored, labels = augment(plan_transforms(mirror={"axes": (2, 0)}), image, label_map)
        flips[find_flip(mirrored, image, labels, label_map)] += 1
    assert all(30 < count < 70 for count in flips.values())


def test_mirroring_on_a_device_flips_image_and_labels_alike(plan_transforms, draw_image, augment_on_device):
    image = draw_image((4, 5, 6), batch=40)
    label_map = np.random.default_rng(2).integers(0, 3, size=(40, 4, 5, 6)).astype(np.int16)
    mirrored, labels = augment_on_device(plan_transforms(mirror={"axes": (0, 2)}), image, label_map)
    flips = [find_flip(mirrored[number], image[number], labels[number], label_map[number]) for number in range(40)]
    assert set(flips) == set(AXES)


def test_allowed_axes_are_flipped_half_of_the_time_and_independently(plan_transforms, draw):
    (flips,) = draw(plan_transforms(mirror={"axes": (0, 2)}))
    assert flips.mean(axis=0) == pytest.approx([0.5, 0, 0.5], abs=0.06)
    assert (flips[:, 0] & flips[:, 2]).mean() == pytest.approx(0.25, abs=0.06)


PAIRS = ((1, 2), (5, 3))


def draw_labels(shape=(4, 5, 6)):
    return np.random.default_rng(3).integers(-1, 8, size=shape).astype(np.int16)


def test_exchanging_labels_twice_is_the_identity_and_leaves_all_others():
    label_map = draw_labels()
    exchanged = exchange_labels(label_map, PAIRS)
    assert np.array_equal(exchange_labels(exchanged, PAIRS), label_map)
    for label, other in {1: 2, 2: 1, 3: 5, 5: 3, -1: -1, 0: 0, 4: 4, 6: 6, 7: 7}.items():
        assert np.array_equal(exchanged == other, label_map == label)
    transform = MirrorPairs(plan=MirrorPairsPlan(axis=0, pairs=PAIRS), patch_voxels=label_map.shape)
    patches = Patches(image=torch.zeros(1, 1, *label_map.shape), label_maps=torch.from_numpy(label_map)[None, None])
    for is_flipped, expected in ((True, np.flip(exchanged, 0)), (False, label_map)):
        flags = np.array([is_flipped])
        arrays = map(torch.from_numpy, transform.list_arrays(flags))
        changed = transform.change_patches(patches, flags, *arrays).label_maps
        assert np.array_equal(changed[0, 0].numpy(), expected)


def keeps_its_side(image, label_map):
    """Whether every label lies where its intensity says, with left and right as they are named: 1 left, 2 right."""
    left, right = np.argwhere(label_map == 1), np.argwhere(label_map == 2)
    return left[:, 2].max() < right[:, 2].min() and np.array_equal(image > 0, label_map > 0)


def draw_sided(batch=1):
    """A bright object on the left that is larger than the one on the right."""
    label_maps = np.zeros((batch, 4, 6, 8), np.int16)
    label_maps[:, 1:3, 1:5, 1:3] = 1
    label_maps[:, 1:3, 2:4, 5:6] = 2
    return (label_maps > 0).astype(np.float32)[:, None], label_maps


@pytest.mark.parametrize("is_on_device", [False, True])
def test_left_stays_left_where_labels_are_exchanged(plan_transforms, augment, augment_on_device, is_on_device):
    transforms = plan_transforms(mirror_pairs={"axis": 2, "pairs": ((1, 2),)}, mirror={"axes": (1,)})
    images, label_maps = draw_sided(40)
    if is_on_device:
        changed, labels = (np.asarray(array) for array in augment_on_device(transforms, images, label_maps))
    else:
        made = [augment(transforms, image, label_map) for image, label_map in zip(images, label_maps, strict=True)]
        changed, labels = (np.stack(arrays) for arrays in zip(*made, strict=True))
    assert all(keeps_its_side(image[0], label_map) for image, label_map in zip(changed, labels, strict=True))
    sizes = {((label_map == 1).sum(), (label_map == 2).sum()) for label_map in labels}
    assert sizes == {(16, 4), (4, 16)}


def test_mirroring_without_exchange_takes_left_to_the_right(plan_transforms, augment):
    images, label_maps = draw_sided(40)
    made = [augment(plan_transforms(mirror={"axes": (2,)}), images[0], label_maps[0]) for _ in range(40)]
    assert {keeps_its_side(image[0], label_map) for image, label_map in made} == {True, False}
