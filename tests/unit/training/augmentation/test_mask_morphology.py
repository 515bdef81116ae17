import numpy as np
import pytest
import torch
from scipy import stats
from skimage import morphology

from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS
from autoseg.training.augmentation import mask_morphology
from autoseg.training.augmentation.mask_morphology import (
    OPERATIONS,
    MorphologyParameters,
    apply_operations,
    change_masks,
    change_masks_of_batch,
    close_mask,
    dilate,
    erode,
    open_mask,
)
from autoseg.training.augmentation.transform import Sample
from autoseg.training.augmentation.transforms import build_transforms

REFERENCE = REFERENCE_MASK_TRANSFORMS[0]


@pytest.fixture
def plan(plan_transforms):
    """Changes every label by 1 to 3 voxels."""
    (part,) = plan_transforms(mask_morphology={"label_probability": 1.0, "radius_range_voxels": (1.0, 3.0)})
    return part


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
        mask_morphology, "OPERATIONS", (lambda mask, radius_voxels: next(operations)(mask, radius_voxels),)
    )
    masks, before = make_masks(), make_masks()
    change_masks(masks, plan)
    grown = 0 if (masks[0] & ~before[0]).any() else 1
    gained = masks[grown] & before[1 - grown]
    assert gained.any()
    assert np.array_equal(masks[1 - grown], before[1 - grown] & ~gained)
    assert not (masks[0] & masks[1]).any()


def test_what_a_label_loses_is_background(plan, monkeypatch):
    monkeypatch.setattr(mask_morphology, "OPERATIONS", (erode,))
    masks = make_masks()
    change_masks(masks, plan)
    assert masks.any()
    assert not (masks & ~make_masks()).any()
    assert masks.sum() < make_masks().sum()


def test_four_of_ten_samples_are_changed_in_the_reference(monkeypatch):
    changed = []
    monkeypatch.setattr(mask_morphology, "change_masks", lambda masks, plan: changed.append(plan))
    (transform,) = build_transforms((REFERENCE,), (4, 4), (1, 2))
    for _ in range(2000):
        transform.change_sample(
            Sample(
                image=np.zeros((1, 4, 4), np.float32),
                label_map=np.zeros((4, 4), np.int16),
                previous_label_map=np.zeros((4, 4), np.int16),
            )
        )
    assert len(changed) / 2000 == pytest.approx(0.4, abs=0.04)


def test_half_of_the_labels_are_changed_by_every_operator_with_radii_up_to_eight(monkeypatch):
    drawn = []
    operators = tuple(
        lambda mask, radius_voxels, index=index: drawn.append((index, radius_voxels)) or mask for index in range(4)
    )
    assert {operation.__name__ for operation in OPERATIONS} == {"dilate", "erode", "close_mask", "open_mask"}
    monkeypatch.setattr(mask_morphology, "OPERATIONS", operators)
    for _ in range(1000):
        change_masks(np.ones((2, 2, 2), dtype=bool), REFERENCE)
    indices, radii = np.array(drawn).T
    assert len(drawn) / 2000 == pytest.approx(0.5, abs=0.04)
    assert np.bincount(indices.astype(int)) / len(drawn) == pytest.approx([0.25] * 4, abs=0.05)
    assert (radii.min(), radii.max()) == pytest.approx((1, 8), abs=0.1)
    assert radii.mean() == pytest.approx(4.5, abs=0.2)


def draw_masks(shape, *, seed=0):
    """Blobs of all sizes, of which some touch the border."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return (noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2)) > 0.8


@pytest.mark.parametrize("shape", [(9, 15, 16), (24, 25)])
def test_every_operator_on_a_device_is_the_same_for_radii_of_any_length(shape, device):
    generator = np.random.default_rng(1)
    masks = np.stack([*draw_masks((38, *shape)), np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)])
    operations = np.arange(40) % 4
    radii = np.concatenate([generator.uniform(1, 8, size=36), [2.0, 3.0, 40.0, 0.5]])
    found = apply_operations(torch.from_numpy(masks).to(device), operations, radii).cpu().numpy()
    for mask, changed, operation, radius in zip(masks, found, operations, radii, strict=True):
        assert np.array_equal(changed, OPERATIONS[operation](mask, radius))
    assert any(not np.array_equal(changed, mask) for changed, mask in zip(found, masks, strict=True))


def test_on_a_device_labels_are_changed_in_their_order_and_what_one_gains_the_others_lose(device):
    batch, labels, shape = 5, 3, (8, 9, 10)
    generator = np.random.default_rng(2)
    label_map = generator.integers(0, labels + 1, size=(batch, 2, 3, 3)).repeat(4, 1).repeat(3, 2).repeat(4, 3)
    masks = np.stack([label_map[:, :8, :9, :10] == label for label in range(1, labels + 1)], axis=1)
    parameters = MorphologyParameters(
        order=np.stack([generator.permutation(labels) for _ in range(batch)]),
        is_changed=generator.random((batch, labels)) < 0.7,
        operation=generator.integers(0, 4, size=(batch, labels)),
        radius_voxels=generator.uniform(1, 3, size=(batch, labels)),
    )
    found = torch.from_numpy(masks.copy()).to(device)
    change_masks_of_batch(found, parameters)
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


def test_what_is_drawn_for_a_batch_has_the_probabilities_and_ranges_of_the_plan(draw):
    (drawn,) = draw((REFERENCE,), count=1500, foreground_labels=(1, 2, 3))
    assert drawn.is_changed.mean() == pytest.approx(0.4 * 0.5, abs=0.03)
    assert drawn.is_changed.any(axis=1).mean() == pytest.approx(0.4 * (1 - 0.5**3), abs=0.04)
    assert np.bincount(drawn.operation.ravel()) / 4500 == pytest.approx([0.25] * 4, abs=0.03)
    assert stats.kstest(drawn.radius_voxels.ravel(), stats.uniform(1, 7).cdf).pvalue > 0.001
    orders, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts / 1500 == pytest.approx([1 / 6] * 6, abs=0.04)
