import numpy as np
import pytest
import torch
from builders.labels import build_labels

from autoseg.plan import CrossEntropyTerm, DiceTerm
from autoseg.training.losses.weighted_sum import WeightedLoss


def make_labels(*, has_regions=False, has_ignore=False):
    return build_labels(
        {"whole": (1, 2), "core": (2,)} if has_regions else {"one": (1,), "two": (2,)},
        ignore_value=3 if has_ignore else None,
        region_write_values=(1, 2) if has_regions else None,
    )


def build_loss(labels, *, batch_dice=False, dimensions=2):
    terms = (DiceTerm(weight=1.0, batch_dice=batch_dice), CrossEntropyTerm(weight=1.0))
    return WeightedLoss(terms=terms, labels=labels, spacing_mm=(1.0,) * dimensions)


def draw_case(labels, *, seed=0, space=(5, 6), with_ignored=False):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(3, labels.output_channel_count, *space)).astype(np.float32)
    label_map = generator.integers(0, 4 if with_ignored else 3, size=(3, *space)).astype(np.int16)
    return logits, label_map


def compute_expected(logits, label_map, labels, *, batch_dice):
    """The formulas again, voxel by voxel in float64, from the class definitions alone."""
    logits = np.moveaxis(logits.astype(np.float64), 1, -1)
    valid = np.ones(label_map.shape) if labels.ignore_label is None else (label_map != labels.ignore_label) * 1.0
    if labels.has_regions:
        masks = np.stack([np.isin(label_map, [1, 2]), label_map == 2], axis=-1) * 1.0
        probabilities = 1 / (1 + np.exp(-logits))
        per_voxel = -(masks * np.log(probabilities) + (1 - masks) * np.log(1 - probabilities)).mean(-1)
    else:
        masks = np.stack([label_map == 1, label_map == 2], axis=-1) * 1.0
        softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        truth = np.where(valid > 0, label_map, 0)
        per_voxel = -np.log(np.take_along_axis(softmax, truth[..., None].astype(int), -1))[..., 0]
        probabilities = softmax[..., 1:]
    entropy = (per_voxel * valid).sum() / max(valid.sum(), 1)
    dice = []
    samples = [slice(None)] if batch_dice else range(len(label_map))
    for sample in samples:
        for channel in range(masks.shape[-1]):
            p, y, v = probabilities[sample, ..., channel], masks[sample, ..., channel], valid[sample]
            dice.append((2 * (p * y * v).sum() + 1e-5) / ((p * v).sum() + (y * v).sum() + 1e-5))
    return entropy - np.mean(dice)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("has_ignore", [False, True])
@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("space", [(5, 6), (3, 4, 5)])
def test_the_loss_follows_its_formula(space, has_regions, has_ignore, batch_dice):
    labels = make_labels(has_regions=has_regions, has_ignore=has_ignore)
    logits, label_map = draw_case(labels, space=space, with_ignored=has_ignore)
    loss = build_loss(labels, batch_dice=batch_dice, dimensions=len(space))
    found = loss([torch.tensor(logits)], torch.tensor(label_map), (1.0,)).item()
    expected = compute_expected(logits, label_map, labels, batch_dice=batch_dice)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("has_regions", [False, True])
def test_an_ignore_label_that_no_voxel_carries_changes_nothing(has_regions):
    losses = []
    for has_ignore in (False, True):
        labels = make_labels(has_regions=has_regions, has_ignore=has_ignore)
        logits, label_map = draw_case(labels)
        loss = build_loss(labels)
        losses.append(loss([torch.tensor(logits)], torch.tensor(label_map), (1.0,)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("has_regions", [False, True])
def test_logits_at_ignored_voxels_have_no_influence(has_regions):
    labels = make_labels(has_regions=has_regions, has_ignore=True)
    logits, label_map = draw_case(labels, with_ignored=True)
    leaf = torch.tensor(logits, requires_grad=True)
    build_loss(labels, batch_dice=True)([leaf], torch.tensor(label_map), (1.0,)).backward()
    ignored = torch.tensor(label_map == 3)[:, None].expand_as(leaf)
    assert (leaf.grad[ignored] == 0).all()
    assert (leaf.grad[~ignored] != 0).all()


@pytest.mark.parametrize("has_regions", [False, True])
def test_a_batch_without_any_annotation_has_a_finite_loss_and_gradient(has_regions):
    labels = make_labels(has_regions=has_regions, has_ignore=True)
    logits, label_map = draw_case(labels)
    leaf = torch.tensor(logits, requires_grad=True)
    loss = build_loss(labels, batch_dice=True)([leaf], torch.full_like(torch.tensor(label_map), 3), (1.0,))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(leaf.grad).all()


def test_deep_supervision_weighs_the_losses_of_all_resolutions():
    labels = make_labels()
    logits, label_map = draw_case(labels, space=(8, 8))
    coarse, _ = draw_case(labels, seed=1, space=(4, 2))
    loss = build_loss(labels)
    both = loss([torch.tensor(logits), torch.tensor(coarse)], torch.tensor(label_map), (0.75, 0.25)).item()
    fine_loss = compute_expected(logits, label_map, labels, batch_dice=False)
    coarse_loss = compute_expected(coarse, label_map[:, 1::2, 2::4], labels, batch_dice=False)
    assert both == pytest.approx(0.75 * fine_loss + 0.25 * coarse_loss, rel=1e-5)


def test_half_precision_logits_give_a_full_precision_loss():
    labels = make_labels()
    logits, label_map = draw_case(labels)
    loss = build_loss(labels)([torch.tensor(logits).half()], torch.tensor(label_map), (1.0,))
    assert loss.dtype == torch.float32
