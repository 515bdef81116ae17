"""Masks with mistakes, made on a device, against those of worker processes: alike."""

import numpy as np
import pytest
import torch
from scipy import stats

from autoseg.training.augmentation.masks import join_masks, split_masks, write_masks

SAMPLES = 1500


def draw_label_map(shape=(6, 7)):
    return np.random.default_rng(4).integers(-1, 4, shape).astype(np.int16)


def test_without_transforms_masks_are_the_prediction(augment, augment_on_device):
    label_map = draw_label_map()
    image = np.zeros((0, 6, 7), np.float32)
    expected = np.stack([label_map == 1, label_map == 2])
    assert np.array_equal(augment((), image, label_map, label_map, foreground_labels=(1, 2))[0], expected)
    on_device = augment_on_device((), image[None], label_map[None], label_map[None], foreground_labels=(1, 2))
    assert np.array_equal(on_device[0][0], expected)


def test_changed_masks_go_back_into_their_label_map():
    label_map = draw_label_map()
    masks = np.stack([np.zeros_like(label_map, dtype=bool), (label_map == 1) | (label_map == -1)])
    expected = label_map.copy()
    expected[label_map == 3] = 0
    expected[masks[1]] = 3
    joined = join_masks(torch.from_numpy(label_map)[None], torch.from_numpy(masks)[None], (1, 3))
    write_masks(label_map, masks, (1, 3))
    assert np.array_equal(label_map, expected)
    assert np.array_equal(joined[0].numpy(), expected)
    assert torch.equal(split_masks(joined, (1, 3))[0], torch.from_numpy(masks))


def test_a_sample_has_the_same_masks_whatever_its_batch(plan_transforms, augment_on_device):
    plans = plan_transforms(mask_morphology={}, mask_component_removal={})
    label_map = np.random.default_rng(3).integers(-1, 3, size=(6, 5, 4)).repeat(4, 1).repeat(4, 2).astype(np.int16)
    image = np.zeros((6, 0, 20, 16), np.float32)
    together, _ = augment_on_device(plans, image, label_map, label_map, foreground_labels=(1, 2))
    for sample in range(6):
        part = slice(sample, sample + 1)
        alone, _ = augment_on_device(
            plans, image[part], label_map[part], label_map[part], first=sample, foreground_labels=(1, 2)
        )
        assert np.array_equal(alone[0], together[sample])
    other, _ = augment_on_device(plans, image, label_map, label_map, first=6, foreground_labels=(1, 2))
    assert not np.array_equal(other, together)


CHANGES = {
    "grow and shrink": {"mask_morphology": {"probability": 0.4}},
    "lose components": {"mask_component_removal": {"probability": 0.5}},
    "both": {"mask_morphology": {"probability": 0.6}, "mask_component_removal": {"probability": 0.5}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_masks_change_as_often_and_as_much_as_in_worker_processes(plan_transforms, augment, augment_on_device, name):
    listed = CHANGES[name]
    if "mask_morphology" in listed:
        listed = listed | {"mask_morphology": listed["mask_morphology"] | {"radius_range_voxels": (1.0, 4.0)}}
    plans = plan_transforms(**listed)
    label_map = np.zeros((20, 24), np.int16)
    label_map[4:12, 5:12], label_map[4:12, 12:17] = 1, 2
    label_map[1, 1], label_map[15:18, 2:6], label_map[16, 20:22], label_map[18, 12] = 1, 1, 2, 2
    image, many = np.zeros((0, *label_map.shape), np.float32), np.stack([label_map] * SAMPLES)
    images = np.zeros((SAMPLES, *image.shape), np.float32)
    found = augment_on_device(plans, images, many, many, foreground_labels=(1, 2))[0].astype(bool)
    worker = [augment(plans, image, label_map, label_map, foreground_labels=(1, 2))[0] for _ in range(SAMPLES)]
    expected = np.stack(worker).astype(bool)
    plain = np.stack([label_map == 1, label_map == 2])
    for label in range(2):
        is_changed, was_changed = ((masks[:, label] != plain[label]).any(axis=(1, 2)) for masks in (found, expected))
        assert is_changed.mean() == pytest.approx(was_changed.mean(), abs=0.06)
        assert was_changed.mean() > 0.1
        sizes, known = (masks[:, label].sum(axis=(1, 2)).astype(np.float64) for masks in (found, expected))
        assert stats.ks_2samp(sizes, known).pvalue > 0.001
    assert np.abs(found.mean(axis=0) - expected.mean(axis=0)).max() < 0.08
