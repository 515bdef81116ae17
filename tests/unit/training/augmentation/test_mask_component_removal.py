import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import label as label_components

from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS
from autoseg.training.augmentation import mask_component_removal
from autoseg.training.augmentation.mask_component_removal import (
    RemovalParameters,
    remove_components,
    remove_components_of_batch,
)
from autoseg.training.augmentation.transform import Sample
from autoseg.training.augmentation.transforms import build_transforms

REFERENCE = REFERENCE_MASK_TRANSFORMS[1]


@pytest.fixture
def plan(plan_transforms):
    """Removes a component of every label."""
    (part,) = plan_transforms(mask_component_removal={"label_probability": 1.0})
    return part


def draw_masks(shape, *, seed=0):
    """Blobs of all sizes, of which some touch the border."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return (noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2)) > 0.8


def test_one_small_component_is_removed_and_large_ones_stay(plan):
    masks = np.zeros((1, 20, 20, 20), dtype=bool)
    masks[0, :10, :, :8] = True  # a fifth of the patch
    masks[0, 14, 14, 14:16] = masks[0, 15, 15, 16] = True  # corners connect
    masks[0, 18, 2, 18] = True
    removed = set()
    for _ in range(20):
        changed = masks.copy()
        remove_components(changed, plan)
        assert changed[0, :10, :, :8].all()
        assert label_components(changed[0], np.ones((3, 3, 3)))[1] == 2
        removed.add(int(masks.sum() - changed.sum()))
    assert removed == {1, 3}


def test_without_small_components_nothing_is_removed(plan):
    masks = np.zeros((2, 8, 8), dtype=bool)
    masks[0, :4] = True
    changed = masks.copy()
    remove_components(changed, plan)
    assert np.array_equal(changed, masks)


def test_a_fifth_of_the_samples_is_changed_in_the_reference(monkeypatch):
    changed = []
    monkeypatch.setattr(mask_component_removal, "remove_components", lambda masks, plan: changed.append(plan))
    (transform,) = build_transforms((REFERENCE,), (4, 4), (1, 2))
    for _ in range(2000):
        transform.change_sample(
            Sample(
                image=np.zeros((1, 4, 4), np.float32),
                label_map=np.zeros((4, 4), np.int16),
                previous_label_map=np.zeros((4, 4), np.int16),
            )
        )
    assert len(changed) / 2000 == pytest.approx(0.2, abs=0.03)


def test_half_of_the_labels_lose_a_component():
    masks = np.zeros((2, 5, 5), dtype=bool)
    masks[:, 1, 1] = masks[:, 3, 3] = True
    lost = 0
    for _ in range(1000):
        changed = masks.copy()
        remove_components(changed, REFERENCE)
        lost += 4 - int(changed.sum())
    assert lost / 2000 == pytest.approx(0.5, abs=0.04)


def test_on_a_device_the_chosen_small_component_is_removed_and_large_ones_stay(device):
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, :10] = True  # a quarter of the patch
    mask[14, 14] = mask[15, 15] = True  # corners connect
    mask[18, 2] = True
    masks = torch.from_numpy(np.stack([np.stack([mask, mask])] * 2)).to(device)
    parameters = RemovalParameters(
        is_reduced=np.array([[True, False], [True, True]]), choice=np.array([[0.0, 0.0], [0.99, 0.4]])
    )
    remove_components_of_batch(masks, parameters, 0.15)
    lost = mask.sum() - masks.cpu().numpy().sum(axis=(2, 3))
    assert lost.tolist() == [[2, 0], [1, 2]]
    assert masks[:, :, :10, :10].all()
    before = masks.clone()
    remove_components_of_batch(masks, parameters, 0.0)
    assert torch.equal(masks, before)


def test_what_is_drawn_for_a_batch_has_the_probabilities_of_the_plan(draw):
    (drawn,) = draw((REFERENCE,), count=1500, foreground_labels=(1, 2, 3))
    assert drawn.is_reduced.mean() == pytest.approx(0.2 * 0.5, abs=0.03)
    assert drawn.is_reduced.any(axis=1).mean() == pytest.approx(0.2 * (1 - 0.5**3), abs=0.04)
    assert stats.kstest(drawn.choice.ravel(), stats.uniform(0, 1).cdf).pvalue > 0.001


def test_components_are_chosen_alike_on_a_device(plan):
    mask = draw_masks((30, 30), seed=5)
    removed = set()
    for _ in range(200):
        masks = mask[None].copy()
        remove_components(masks, plan)
        removed.add((mask & ~masks[0]).tobytes())
    shares = np.linspace(0, 1, 400, endpoint=False)
    on_device = torch.from_numpy(np.stack([mask[None]] * 400))
    remove_components_of_batch(
        on_device, RemovalParameters(is_reduced=np.ones((400, 1), bool), choice=shares[:, None]), 0.15
    )
    assert removed <= {(mask & ~masks[0]).tobytes() for masks in on_device.numpy()}
