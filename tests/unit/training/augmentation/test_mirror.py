import numpy as np
import pytest

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
