import numpy as np
import pytest
from autoseg.training.mask_augmentation import (
    AugmentedMasks,
    PlainMasks,
    change_masks,
    close_mask,
    dilate,
    erode,
    open_mask,
    remove_components,
)
from scipy.ndimage import label as label_components
from skimage import morphology

from autoseg.training import mask_augmentation


@pytest.fixture(autouse=True)
def _fixed_random_numbers():
    np.random.seed(0)


@pytest.fixture
def plan(plan_augmentation):
    """Changes every label by 1 to 3 voxels and removes a component of every label, if a test applies it."""
    return plan_augmentation(
        mask_change_label_probability=1.0,
        mask_change_radius_voxels=(1.0, 3.0),
        component_removal_label_probability=1.0,
        component_removal_limit_fraction=0.15,
    )


def draw_mask(shape):
    noise = np.random.default_rng(3).normal(size=shape)
    return morphology.remove_small_objects(noise > 0.4, max_size=3)


def make_masks():
    """Two labels that touch each other."""
    masks = np.zeros((2, 24, 24, 24), dtype=bool)
    masks[0, 6:12, 6:18, 6:18] = True
    masks[1, 12:18, 6:18, 6:18] = True
    return masks


@pytest.mark.parametrize(("shape", "ball"), [((14, 15, 16), morphology.ball), ((30, 31), morphology.disk)])
@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (dilate, morphology.dilation),
        (erode, morphology.erosion),
        (open_mask, morphology.opening),
        (close_mask, morphology.closing),
    ],
)
def test_the_operators_are_those_of_scikit_image_for_balls_of_whole_radii(shape, ball, radius, *, ours, reference):
    mask = draw_mask(shape) if ours is not erode else ~draw_mask(shape)
    expected = reference(mask, ball(radius))
    assert mask.any()
    assert np.array_equal(ours(mask, float(radius)), expected)


@pytest.mark.parametrize("operation", [dilate, erode, open_mask, close_mask])
def test_a_full_and_an_empty_mask_stay_as_they_are(operation):
    for mask in (np.zeros((5, 6, 7), dtype=bool), np.ones((5, 6, 7), dtype=bool)):
        assert np.array_equal(operation(mask, 3.3), mask)


def test_what_a_label_gains_the_others_lose(plan, monkeypatch):
    operations = iter([dilate, lambda mask, radius_voxels: mask])
    monkeypatch.setattr(
        mask_augmentation, "OPERATIONS", (lambda mask, radius_voxels: next(operations)(mask, radius_voxels),)
    )
    masks, before = make_masks(), make_masks()
    change_masks(masks, plan)
    grown = 0 if (masks[0] & ~before[0]).any() else 1
    gained = masks[grown] & before[1 - grown]
    assert gained.any()
    assert np.array_equal(masks[1 - grown], before[1 - grown] & ~gained)
    assert not (masks[0] & masks[1]).any()


def test_what_a_label_loses_is_background(plan, monkeypatch):
    monkeypatch.setattr(mask_augmentation, "OPERATIONS", (erode,))
    masks = make_masks()
    change_masks(masks, plan)
    assert masks.any()
    assert not (masks & ~make_masks()).any()
    assert masks.sum() < make_masks().sum()


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


def test_plain_masks_are_the_prediction(plan_augmentation, mask_input):
    label_map = np.random.default_rng(0).integers(-1, 3, (6, 7)).astype(np.int16)
    image = np.zeros((1, 6, 7), np.float32)
    appended = PlainMasks(input=mask_input(2))(image, label_map)
    assert np.array_equal(appended[1:], [label_map == 1, label_map == 2])
    never = plan_augmentation(mask_change_probability=0.0, component_removal_probability=0.0)
    assert np.array_equal(AugmentedMasks(input=mask_input(2), plan=never)(image, label_map), appended)


def count(recorder, augment, monkeypatch, *, repetitions=2000):
    """How many of many samples reach a function that is put in place of the operation."""
    label_map = np.zeros((4, 4), np.int16)
    label_map[0, 0], label_map[3, 3] = 1, 2
    monkeypatch.setattr(mask_augmentation, "change_masks", recorder)
    for _ in range(repetitions):
        augment(np.zeros((1, 4, 4), np.float32), label_map)


def test_the_references_probabilities_are_the_default(plan_augmentation, mask_input, monkeypatch):
    plan, calls = plan_augmentation(), {"change": 0, "remove": 0}

    def tally(name):
        def add(masks, plan):
            calls[name] += 1

        return add

    monkeypatch.setattr(mask_augmentation, "remove_components", tally("remove"))
    count(tally("change"), AugmentedMasks(input=mask_input(2), plan=plan), monkeypatch)
    assert calls["change"] / 2000 == pytest.approx(0.4, abs=0.04)
    assert calls["remove"] / 2000 == pytest.approx(0.2, abs=0.03)


def test_half_of_the_labels_are_changed_by_every_operator_with_radii_up_to_eight(plan_augmentation, monkeypatch):
    drawn = []
    operators = tuple(
        lambda mask, radius_voxels, index=index: drawn.append((index, radius_voxels)) or mask for index in range(4)
    )
    assert {operation.__name__ for operation in mask_augmentation.OPERATIONS} == {
        *("dilate", "erode", "close_mask", "open_mask")
    }
    monkeypatch.setattr(mask_augmentation, "OPERATIONS", operators)
    for _ in range(1000):
        change_masks(np.ones((2, 2, 2), dtype=bool), plan_augmentation())
    indices, radii = np.array(drawn).T
    assert len(drawn) / 2000 == pytest.approx(0.5, abs=0.04)
    assert np.bincount(indices.astype(int)) / len(drawn) == pytest.approx([0.25] * 4, abs=0.05)
    assert (radii.min(), radii.max()) == pytest.approx((1, 8), abs=0.1)
    assert radii.mean() == pytest.approx(4.5, abs=0.2)


def test_half_of_the_labels_lose_a_component(plan_augmentation):
    masks = np.zeros((2, 5, 5), dtype=bool)
    masks[:, 1, 1] = masks[:, 3, 3] = True
    lost = 0
    for _ in range(1000):
        changed = masks.copy()
        remove_components(changed, plan_augmentation())
        lost += 4 - int(changed.sum())
    assert lost / 2000 == pytest.approx(0.5, abs=0.04)
