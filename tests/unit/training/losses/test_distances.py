import math

import numpy as np
import pytest
import torch
from builders.labels import build_labels
from builders.objects import CELLS, TWO_CLASSES
from scipy.ndimage import distance_transform_edt, label

from autoseg.training.losses.distances import compute_border_exponentials, compute_signed_distances_mm
from autoseg.training.losses.targets import build_target

IGNORED = 2


def make_target(label_map, spacing_mm, *, has_ignore=False):
    labels = build_labels({"cell": (1,)}, ignore_value=IGNORED if has_ignore else None)
    return build_target(torch.as_tensor(label_map, dtype=torch.int16)[None], labels, spacing_mm=spacing_mm)


def draw_two_boxes(gap, *, axes=2, axis=0, extent=5):
    """Two boxes of which the nearest voxels lie `gap` apart along an axis; the place in the middle of the gap."""
    label_map = np.zeros([2 * extent + gap + 3 if other == axis else 9 for other in range(axes)])
    for first in (2, 1 + extent + gap):
        box = [slice(2, 7)] * axes
        box[axis] = slice(first, first + extent)
        label_map[tuple(box)] = 1
    middle = [4] * axes
    middle[axis] = 1 + extent + gap // 2
    return label_map, tuple(middle)


@pytest.mark.parametrize(
    ("spacing_mm", "axis", "gap"),
    [((1.0, 1.0), 0, 4), ((1.0, 0.5), 1, 8), ((2.0, 1.0, 1.0), 0, 2), ((2.0, 1.0, 0.5), 2, 8)],
)
def test_background_between_two_objects_counts_as_in_the_paper(spacing_mm, axis, gap):
    label_map, middle = draw_two_boxes(gap, axes=len(spacing_mm), axis=axis)
    weights = 10 * compute_border_exponentials(make_target(label_map, spacing_mm), 5.0)[0, 0]
    assert weights[middle] == pytest.approx(7.26149, abs=1e-5)  # 10 exp(-(2 + 2) ** 2 / 50)
    assert (weights[label_map > 0] == 0).all()


def test_only_the_two_nearest_objects_count_whatever_their_number():
    generator = np.random.default_rng(0)
    label_map = (generator.random((24, 20)) < 0.04).astype(np.int16)
    spacing_mm, sigma_mm = (1.0, 0.7), 2.0
    found = compute_border_exponentials(make_target(label_map, spacing_mm), sigma_mm)[0, 0]
    objects, count = label(label_map, structure=np.ones((3, 3)))
    assert count > 5
    distances = [distance_transform_edt(objects != number, sampling=spacing_mm) for number in range(1, count + 1)]
    first, second = np.sort(distances, axis=0)[:2]
    expected = np.where(label_map > 0, 0, np.exp(-((first + second) ** 2) / (2 * sigma_mm**2)))
    np.testing.assert_allclose(found, expected, atol=math.exp(-8))


def test_labels_that_touch_are_different_objects_and_ignored_voxels_are_none():
    labels = build_labels({"one": (1,), "two": (2,)}, ignore_value=3)
    label_map = np.zeros((3, 9))
    label_map[:, 2], label_map[:, 4], label_map[:, 6] = 1, 2, 3
    target = build_target(torch.as_tensor(label_map, dtype=torch.int16)[None], labels, spacing_mm=(1.0, 1.0))
    weights = compute_border_exponentials(target, 5.0)[0, 0, 1]
    assert weights[3] == pytest.approx(math.exp(-(2**2) / 50), rel=1e-5)
    assert weights[5] == pytest.approx(math.exp(-(4**2) / 50), rel=1e-5)


def test_one_object_alone_adds_nothing():
    label_map = np.zeros((8, 8))
    label_map[2:4, 2:4] = 1
    assert not compute_border_exponentials(make_target(label_map, (1.0, 1.0)), 5.0).any()


def test_the_core_and_the_border_of_one_object_are_not_two():
    label_map = np.zeros((15, 15))
    label_map[3:12, 3:12], label_map[5:10, 5:10] = 2, 1
    target = build_target(
        torch.as_tensor(label_map, dtype=torch.int16)[None], CELLS.target_labels, spacing_mm=(1.0, 1.0)
    )
    assert not compute_border_exponentials(target, 5.0, CELLS.core_classes).any()


def test_borders_between_two_cores_count_whatever_the_step_of_the_core():
    targets = TWO_CLASSES.model_copy(update={"centre_steps": 3})
    label_map = np.zeros((3, 10))  # core and last step of a cell, borders, and the same of a gland
    label_map[:, 1:9] = (7, 1, 3, 3, 4, 2, 8, 8)
    target = build_target(
        torch.as_tensor(label_map, dtype=torch.int16)[None], targets.target_labels, spacing_mm=(1.0, 1.0)
    )
    weights = compute_border_exponentials(target, 5.0, targets.core_classes)[0, 0, 1]
    assert targets.core_classes == (1, 2, 0, 0, 1, 2, 1, 2)
    assert weights[3:6] == pytest.approx([math.exp(-(4**2) / 50)] * 3, rel=1e-5)
    assert not weights[[1, 2, 6, 7, 8]].any()


def test_signed_distances_are_in_mm_along_every_axis():
    label_map = np.zeros((7, 8, 9))
    label_map[1:6, 2:7, 2:7] = 1
    spacing_mm = (4.0, 1.0, 0.5)
    distances = compute_signed_distances_mm(make_target(label_map, spacing_mm))[0, 0]
    assert distances[3, 4, :].tolist() == [1.0, 0.5, 0.0, -0.5, -1.0, -0.5, 0.0, 0.5, 1.0]
    assert distances[0, 4, 4] == 4.0
    outside = distance_transform_edt(label_map == 0, sampling=spacing_mm)
    np.testing.assert_allclose(np.where(label_map > 0, 0, distances), outside, rtol=1e-6)


def test_the_border_of_the_patch_and_ignored_voxels_are_no_boundary():
    label_map = np.zeros((1, 9))
    label_map[0, :5] = 1
    label_map[0, 3] = IGNORED
    distances = compute_signed_distances_mm(make_target(label_map, (1.0, 1.0), has_ignore=True))[0, 0, 0]
    assert distances.tolist() == [-4.0, -3.0, -2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("value", [0, 1])
def test_a_class_that_is_absent_or_fills_the_patch_has_no_boundary(value):
    assert not compute_signed_distances_mm(make_target(np.full((3, 4), value), (1.0, 1.0))).any()
