"""Masks with mistakes, made on the device, against those of the processor: equal for equal draws, else alike."""

import numpy as np
import pytest
import torch
from autoseg.training.device.masks import (
    DeviceMasks,
    MaskParameters,
    apply_operations,
    change_masks,
    draw_mask_parameters,
    remove_components,
)
from autoseg.training.mask_augmentation import OPERATIONS, AugmentedMasks
from autoseg.training.mask_augmentation import remove_components as remove_on_processor
from scipy import stats

SAMPLES = 1500


def draw_masks(shape, *, seed=0):
    """Blobs of all sizes, of which some touch the border."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return (noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2)) > 0.8


def make_parameters(batch, labels, **values):
    usual = {
        "order": np.tile(np.arange(labels), (batch, 1)),
        "is_changed": np.ones((batch, labels), dtype=bool),
        "operation": np.zeros((batch, labels), dtype=np.int64),
        "radius_voxels": np.ones((batch, labels)),
        "is_reduced": np.zeros((batch, labels), dtype=bool),
        "choice": np.zeros((batch, labels)),
    }
    return MaskParameters(**usual | values)


@pytest.mark.parametrize("shape", [(9, 15, 16), (24, 25)])
def test_every_operator_is_that_of_the_processor_for_radii_of_any_length(shape, device):
    generator = np.random.default_rng(1)
    masks = np.stack([*draw_masks((38, *shape)), np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)])
    operations = np.arange(40) % 4
    radii = np.concatenate([generator.uniform(1, 8, size=36), [2.0, 3.0, 40.0, 0.5]])
    found = apply_operations(torch.from_numpy(masks).to(device), operations, radii).cpu().numpy()
    for mask, changed, operation, radius in zip(masks, found, operations, radii, strict=True):
        assert np.array_equal(changed, OPERATIONS[operation](mask, radius))
    assert any(not np.array_equal(changed, mask) for changed, mask in zip(found, masks, strict=True))


def test_labels_are_changed_in_their_order_and_what_one_gains_the_others_lose(device):
    batch, labels, shape = 5, 3, (8, 9, 10)
    generator = np.random.default_rng(2)
    label_map = generator.integers(0, labels + 1, size=(batch, 2, 3, 3)).repeat(4, 1).repeat(3, 2).repeat(4, 3)
    masks = np.stack([label_map[:, :8, :9, :10] == label for label in range(1, labels + 1)], axis=1)
    parameters = make_parameters(
        batch,
        labels,
        order=np.stack([generator.permutation(labels) for _ in range(batch)]),
        is_changed=generator.random((batch, labels)) < 0.7,
        operation=generator.integers(0, 4, size=(batch, labels)),
        radius_voxels=generator.uniform(1, 3, size=(batch, labels)),
    )
    found = torch.from_numpy(masks.copy()).to(device)
    change_masks(found, parameters)
    expected = masks.copy()
    for sample in range(batch):
        for label in parameters.order[sample]:
            if parameters.is_changed[sample, label]:
                operation = OPERATIONS[parameters.operation[sample, label]]
                changed = operation(expected[sample, label], parameters.radius_voxels[sample, label])
                expected[sample][:, changed & ~expected[sample, label]] = False
                expected[sample, label] = changed
    assert found.shape == (batch, labels, *shape)
    assert np.array_equal(found.cpu().numpy(), expected)
    assert not np.array_equal(expected, masks)


def test_the_chosen_small_component_is_removed_and_large_ones_stay(device):
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, :10] = True  # a quarter of the patch
    mask[14, 14] = mask[15, 15] = True  # corners connect
    mask[18, 2] = True
    masks = torch.from_numpy(np.stack([np.stack([mask, mask])] * 2)).to(device)
    parameters = make_parameters(
        2, 2, is_reduced=np.array([[True, False], [True, True]]), choice=np.array([[0.0, 0.0], [0.99, 0.4]])
    )
    remove_components(masks, parameters, 0.15)
    lost = mask.sum() - masks.cpu().numpy().sum(axis=(2, 3))
    assert lost.tolist() == [[2, 0], [1, 2]]
    assert masks[:, :, :10, :10].all()
    before = masks.clone()
    remove_components(masks, parameters, 0.0)
    assert torch.equal(masks, before)


def test_what_is_drawn_has_the_probabilities_and_ranges_of_the_plan(plan_augmentation, list_seeds):
    drawn = draw_mask_parameters(plan_augmentation(), list_seeds(SAMPLES), 3)
    for flags, of_sample in ((drawn.is_changed, 0.4), (drawn.is_reduced, 0.2)):
        assert flags.mean() == pytest.approx(of_sample * 0.5, abs=0.03)
        assert flags.any(axis=1).mean() == pytest.approx(of_sample * (1 - 0.5**3), abs=0.04)
    assert np.bincount(drawn.operation.ravel()) / (3 * SAMPLES) == pytest.approx([0.25] * 4, abs=0.03)
    assert stats.kstest(drawn.radius_voxels.ravel(), stats.uniform(1, 7).cdf).pvalue > 0.001
    assert stats.kstest(drawn.choice.ravel(), stats.uniform(0, 1).cdf).pvalue > 0.001
    orders, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts / SAMPLES == pytest.approx([1 / 6] * 6, abs=0.04)


def test_a_sample_has_the_same_masks_whatever_its_batch(plan_augmentation, mask_input, list_seeds, device):
    plan = plan_augmentation(mask_change_probability=1.0, component_removal_probability=1.0)
    make = DeviceMasks(input=mask_input(2), plan=plan)
    label_map = np.random.default_rng(3).integers(-1, 3, size=(6, 5, 4)).repeat(4, 1).repeat(4, 2).astype(np.int16)
    whole = torch.from_numpy(label_map).to(device)
    together, seeds = make(whole, list_seeds(6)), list_seeds(6)
    assert torch.equal(make(whole, list_seeds(6)), together)
    for sample in range(6):
        alone = make(whole[sample : sample + 1], seeds[sample : sample + 1])
        assert torch.equal(alone[0], together[sample])
    assert not torch.equal(make(whole, list_seeds(6, iteration=1)), together)


def test_without_mistakes_masks_are_the_prediction(list_seeds, mask_input, device):
    label_map = torch.from_numpy(np.random.default_rng(4).integers(-1, 4, (2, 6, 7)).astype(np.int16)).to(device)
    masks = DeviceMasks(input=mask_input(3), plan=None)(label_map, list_seeds(2))
    assert torch.equal(masks, torch.stack([label_map == 1, label_map == 2, label_map == 3], dim=1))


CHANGES = {
    "grow and shrink": {"component_removal_probability": 0.0},
    "lose components": {"mask_change_probability": 0.0, "component_removal_probability": 0.5},
    "both": {"mask_change_probability": 0.6, "component_removal_probability": 0.5},
}


@pytest.mark.parametrize("name", CHANGES)
def test_masks_change_as_often_and_as_much_as_on_the_processor(
    plan_augmentation, mask_input, list_seeds, *, device, name
):
    plan = plan_augmentation(**CHANGES[name], mask_change_radius_voxels=(1.0, 4.0))
    label_map = np.zeros((20, 24), np.int16)
    label_map[4:12, 5:12], label_map[4:12, 12:17] = 1, 2
    label_map[1, 1], label_map[15:18, 2:6], label_map[16, 20:22], label_map[18, 12] = 1, 1, 2, 2
    many = torch.from_numpy(np.stack([label_map] * SAMPLES)).to(device)
    found = DeviceMasks(input=mask_input(2), plan=plan)(many, list_seeds(SAMPLES)).cpu().numpy()
    np.random.seed(0)
    on_processor = AugmentedMasks(input=mask_input(2), plan=plan)
    image = np.zeros((0, *label_map.shape), np.float32)
    expected = np.stack([on_processor(image, label_map) for _ in range(SAMPLES)]).astype(bool)
    plain = np.stack([label_map == 1, label_map == 2])
    for label in range(2):
        is_changed, was_changed = ((masks[:, label] != plain[label]).any(axis=(1, 2)) for masks in (found, expected))
        assert is_changed.mean() == pytest.approx(was_changed.mean(), abs=0.06)
        assert was_changed.mean() > 0.1
        sizes, known = (masks[:, label].sum(axis=(1, 2)).astype(np.float64) for masks in (found, expected))
        assert stats.ks_2samp(sizes, known).pvalue > 0.001
    assert np.abs(found.mean(axis=0) - expected.mean(axis=0)).max() < 0.08


def test_components_are_chosen_as_on_the_processor(plan_augmentation):
    plan = plan_augmentation(component_removal_label_probability=1.0)
    mask = draw_masks((30, 30), seed=5)
    removed = set()
    for _ in range(200):
        masks = mask[None].copy()
        remove_on_processor(masks, plan)
        removed.add((mask & ~masks[0]).tobytes())
    shares = np.linspace(0, 1, 400, endpoint=False)
    on_device = torch.from_numpy(np.stack([mask[None]] * 400))
    remove_components(
        on_device, make_parameters(400, 1, is_reduced=np.ones((400, 1), bool), choice=shares[:, None]), 0.15
    )
    assert removed <= {(mask & ~masks[0]).tobytes() for masks in on_device.numpy()}
