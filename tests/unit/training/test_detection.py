"""Training of detectors: losses by hand, the assignment against loops, boxes of label maps, and the whole objective."""

import math

import numpy as np
import pytest
import torch
from builders.labels import build_labels, build_plain_labels
from builders.networks import build_small_network_plan

from autoseg.networks import build_network
from autoseg.plan.objectives import DetectionObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.objectives.box_targets import MOST_OBJECTS, BoxTargets, find_box_targets, find_usable_cells
from autoseg.training.objectives.detection import Detection
from autoseg.training.objectives.detection_losses import (
    BOX_LOSSES,
    compute_distribution_loss,
    compute_varifocal_loss,
)
from autoseg.training.objectives.task_alignment import assign_cells, find_candidates

REGIONS = build_labels({"all": (1, 2, 3), "two": (2, 3), "three": (3,)}, region_write_values=(1, 2, 3), ignore_value=4)
UNIT, APART = [[0.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [3.0, 1.0]]
RATIO = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2  # of the two that follow
LYING, STANDING = [[0.0, 0.0], [2.0, 1.0]], [[0.0, 0.0], [1.0, 2.0]]


def build_objective(**changes) -> DetectionObjective:
    fields = {
        "dilation_mm": 1.0,
        "cells_per_object": 13,
        "score_power": 1.0,
        "overlap_power": 6.0,
        "class_weight": 1.0,
        "negative_weight": 0.75,
        "focusing_power": 2.0,
        "box_loss": "giou",
        "box_weight": 2.5,
        "bin_weight": 0.5,
    }
    return DetectionObjective.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("name", "boxes", "wanted", "expected"),
    [
        ("iou", UNIT, APART, 1.0),
        ("giou", UNIT, APART, 1 + 1 / 3),  # union 2, hull 3
        ("diou", UNIT, APART, 1 + 4 / 10),  # centres 2 apart, diagonal of 3 x 1
        ("ciou", UNIT, APART, 1 + 4 / 10),
        ("siou", UNIT, APART, 1 + (1 - math.exp(-2 * 4 / 9)) / 2),  # along an axis: factor 2
        ("iou", LYING, STANDING, 2 / 3),
        ("giou", LYING, STANDING, 2 / 3 + 1 / 4),
        ("diou", LYING, STANDING, 2 / 3 + 0.5 / 8),
        ("ciou", LYING, STANDING, 2 / 3 + 1 / 16 + RATIO**2 / (2 / 3 + RATIO)),
        ("siou", LYING, STANDING, 2 / 3 + (1 - math.exp(-1 / 16)) + (1 - math.exp(-1 / 2)) ** 4),  # between: factor 1
    ],
)
def test_losses_of_boxes_have_the_values_of_their_formulas(name, boxes, wanted, expected):
    loss = BOX_LOSSES[name](torch.tensor(boxes, dtype=torch.float64), torch.tensor(wanted, dtype=torch.float64))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", BOX_LOSSES)
@pytest.mark.parametrize("axes", [2, 3])
def test_losses_of_boxes_have_right_gradients_and_are_0_for_equal_boxes(name, axes):
    generator = torch.Generator().manual_seed(axes)
    corners = torch.rand((2, 4, 2, axes), generator=generator, dtype=torch.float64)
    boxes, wanted = (corners.sort(dim=2).values + torch.arange(2.0).view(1, 1, 2, 1)).unbind()
    assert BOX_LOSSES[name](wanted, wanted).abs().max() < 1e-12
    if name != "ciou":  # the factor of the aspect ratio has no gradient
        torch.autograd.gradcheck(lambda found: BOX_LOSSES[name](found, wanted), boxes.requires_grad_())


def test_the_factor_of_the_aspect_ratio_has_no_gradient():
    boxes = torch.tensor([LYING], dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([STANDING], dtype=torch.float64)
    factor = RATIO / (2 / 3 + RATIO)
    (found,) = torch.autograd.grad(BOX_LOSSES["ciou"](boxes, wanted).sum(), boxes)
    extents = boxes[0, 1] - boxes[0, 0]
    angle = torch.atan(extents[0] / extents[1]) - math.atan(0.5)
    by_hand = BOX_LOSSES["diou"](boxes, wanted).sum() + factor * 4 / math.pi**2 * angle.square()
    torch.testing.assert_close(found, torch.autograd.grad(by_hand, boxes)[0])


def test_the_varifocal_loss_weighs_by_quality_or_by_a_power_of_the_score():
    logits = torch.tensor([0.6, 0.4], dtype=torch.float64).logit().requires_grad_()
    qualities = torch.tensor([0.8, 0.0], dtype=torch.float64)

    def compute(values):
        return compute_varifocal_loss(values, qualities, negative_weight=0.75, focusing_power=2.0)

    positive = -0.8 * (0.8 * math.log(0.6) + 0.2 * math.log(0.4))
    assert compute(logits).tolist() == pytest.approx([positive, -0.75 * 0.4**2 * math.log(0.6)])
    torch.autograd.gradcheck(compute, logits)


def test_a_distance_is_divided_between_the_bins_on_either_side():
    bins = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    entropies = -bins.log_softmax(dim=0)
    for distance, shares in ((2.3, (0, 0, 0.7, 0.3, 0)), (4.0, (0, 0, 0, 0, 1)), (9.0, (0, 0, 0, 0, 1))):
        found = compute_distribution_loss(bins, torch.tensor(distance, dtype=torch.float64))
        assert found.item() == pytest.approx(sum(s * e.item() for s, e in zip(shares, entropies, strict=True)))
    several = bins.repeat(3, 1).requires_grad_()
    distances = torch.tensor([0.0, 2.3, 3.9], dtype=torch.float64)
    torch.autograd.gradcheck(lambda values: compute_distribution_loss(values, distances), several)


def assign_by_loops(targets, scores, boxes, centres, *, count):
    """The same rule, one object and one cell after the other."""
    objects, cells = len(targets.boxes), len(centres)
    overlap, fit = np.zeros((objects, cells)), np.zeros((objects, cells))
    chosen = np.zeros((objects, cells), bool)
    for row in range(objects):
        lower, upper = targets.boxes[row].numpy()
        for cell in range(cells):
            low, high = boxes[cell].numpy()
            common = np.prod(np.clip(np.minimum(upper, high) - np.maximum(lower, low), 0, None))
            overlap[row, cell] = common / (np.prod(upper - lower) + np.prod(high - low) - common)
            score = max(scores[cell, k].item() for k in range(scores.shape[1]) if targets.classes[row, k])
            fit[row, cell] = score * overlap[row, cell] ** 6
        inside = [c for c in range(cells) if all(lower < centres[c].numpy()) and all(centres[c].numpy() < upper)]
        inside.sort(key=lambda cell: -fit[row, cell])
        chosen[row, inside[:count]] = True
    for cell in range(cells):
        rows = np.flatnonzero(chosen[:, cell])
        for row in rows:
            chosen[row, cell] = row == max(rows, key=lambda other: overlap[other, cell])
    quality = np.zeros(cells)
    for row in range(objects):
        own = np.flatnonzero(chosen[row])
        for cell in own:
            quality[cell] = fit[row, cell] / fit[row, own].max() * overlap[row, own].max()
    return {cell: int(np.flatnonzero(chosen[:, cell])[0]) for cell in range(cells) if chosen[:, cell].any()}, quality


@pytest.mark.parametrize("axes", [2, 3])
def test_cells_are_assigned_as_by_loops_over_objects_and_cells(axes):
    generator = torch.Generator().manual_seed(axes)
    centres = torch.rand((150, axes), generator=generator) * 16
    boxes = torch.stack([centres - 1, centres + 1], dim=1)
    boxes += torch.tensor([-1.0, 1.0])[:, None] * torch.rand((150, 2, axes), generator=generator) * 5
    scores = torch.rand((150, 3), generator=generator)
    targets = BoxTargets(
        boxes=torch.tensor(
            [[[0.0] * axes, [9.0] * axes], [[5.0] * axes, [15.0] * axes], [[2.0] * axes, [12.0] * axes]]
        ),
        classes=torch.tensor([[True, False, False], [False, True, True], [False, False, True]]),
    )
    objects, quality = assign_by_loops(targets, scores, boxes, centres, count=13)
    assert set(objects.values()) == {0, 1, 2}
    found = assign_cells(
        build_objective(),
        targets,
        scores=scores,
        boxes=boxes,
        centres=centres,
        is_usable=torch.ones(150, dtype=torch.bool),
    )
    assert {cell: int(found.objects[cell]) for cell in found.qualities.nonzero()[:, 0].tolist()} == objects
    np.testing.assert_allclose(found.qualities.numpy(), quality, rtol=1e-4)


def test_an_object_that_holds_no_centre_gets_the_nearest_usable_cell():
    centres = torch.tensor([[2.0, 2.0], [2.0, 6.0], [6.0, 6.0]])
    boxes = torch.tensor([[[2.5, 4.0], [3.5, 5.0]], [[1.0, 1.0], [7.0, 7.0]]])
    usable = torch.tensor([True, False, True])
    assert find_candidates(boxes, centres, usable).tolist() == [[True, False, False], [True, False, True]]


def test_objects_are_components_of_the_foreground_with_all_classes_that_they_hold():
    label_map = torch.zeros((10, 12), dtype=torch.int16)
    label_map[1:3, 1:4] = 1
    label_map[3, 4] = 3
    label_map[8, 9:11] = 2
    label_map[0, 8] = 4  # ignored
    found = find_box_targets(label_map, REGIONS, margins_voxels=(1.0, 2.5))
    assert found.boxes.tolist() == [[[0, 0], [5, 7.5]], [[7, 6.5], [10, 12]]]
    assert found.classes.tolist() == [[True, True, True], [True, True, False]]


def test_the_largest_of_many_objects_are_kept():
    label_map = torch.zeros((30, 30), dtype=torch.int16)
    label_map[::2, ::2] = 1
    label_map[29, 1:28] = 1
    found = find_box_targets(label_map, build_plain_labels(2), margins_voxels=(0.0, 0.0))
    assert len(found) == MOST_OBJECTS
    assert found.boxes[0].tolist()[1][1] >= 28


def make_batch(plan, *, batch=2):
    label_map = torch.zeros((batch, 12, 12), dtype=torch.int16)
    label_map[:, 3:7, 4:9] = 2
    label_map[:, 9:, :] = 4
    image = torch.randn((1, plan.input_channels, 12, 12), generator=torch.Generator().manual_seed(0))
    return Batch(image=image.expand(batch, -1, -1, -1), label_map=label_map)


@pytest.fixture
def build_parts(plan_configuration):
    """A detector and its objective."""

    def build(part=None, **changes):
        network = build_small_network_plan("detector", 2, probabilities="sigmoid", strides=((1, 1), (2, 2), (2, 2)))
        configuration = plan_configuration(dimensions=2)
        training = configuration.training.model_copy(update={"objective": build_objective(**changes)})
        plan = configuration.model_copy(update={"network": network, "training": training, "spacing_mm": (1.0, 2.0)})
        built = build_network(network, torch.Generator().manual_seed(0)).eval()
        return built, Detection(plan, REGIONS, built, part=part or BatchPart(), seed=0)

    return build


@pytest.mark.parametrize("box_loss", ["giou", "siou"])
def test_a_detector_learns_to_find_an_object(build_parts, box_loss):
    network, objective = build_parts(box_loss=box_loss)
    batch = make_batch(network.plan)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(20):
        loss, logits = objective(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    found = (logits[0, :2] > 0).all(dim=0)
    assert found[3:7, 4:9].all()
    assert not found[:, 11].any()


def test_a_batch_of_equal_samples_has_the_loss_of_one_and_parts_add_up(build_parts):
    network, objective = build_parts()
    batch = make_batch(network.plan)
    batch.label_map[1, 4] = 0
    whole, _ = objective(network, batch)
    sums = []

    def keep_sum(value):
        sums.append(value.item())
        return value

    _, divided = build_parts(part=BatchPart(share=0.5, add_up=keep_sum))
    for sample in (0, 1):
        cut = slice(sample, sample + 1)
        divided(network, Batch(image=batch.image[cut], label_map=batch.label_map[cut]))
    assert whole.item() == pytest.approx((sums[0] + sums[2]) / max(1.0, sums[1] + sums[3]), rel=1e-5)


def test_cells_in_ignored_voxels_do_not_count(build_parts):
    network, objective = build_parts()
    batch = make_batch(network.plan)
    _, scores, *_, centres, _ = network(batch.image, True)
    usable = find_usable_cells(batch.label_map, centres, REGIONS)
    assert usable[0].tolist() == [centre[0].item() < 9 for centre in centres]

    def disturb(image, has_cells):
        logits, found, *others = network(image, has_cells)
        return logits, torch.where(usable[..., None], found, found + 5), *others

    assert scores.isfinite().all()
    assert objective(disturb, batch)[0] == objective(network, batch)[0]


def test_without_objects_only_scores_are_trained(build_parts):
    network, objective = build_parts()
    batch = make_batch(network.plan)
    loss, _ = objective(network, Batch(image=batch.image, label_map=torch.zeros_like(batch.label_map)))
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert gradients["heads.0.scores.bias"].abs().sum() > 0
    assert gradients["heads.0.distances.bias"].abs().sum() == 0


@pytest.mark.parametrize(
    ("family", "changes", "problem"),
    [
        ("plain_unet", {}, "objective 'detection' needs a network of the family detector (got 'plain_unet')"),
        ("detector of regions", {}, "objective.bin_weight must be 0 for a detector with distance_bins 1"),
        ("detector of regions", {"bin_weight": 0.0}, None),
        ("detector", {}, None),
    ],
)
def test_an_objective_that_does_not_fit_the_network_is_refused(family, changes, problem):
    found = build_objective(**changes).find_problem(build_small_network_plan(family, 2))
    assert (found is None) if problem is None else found.startswith(problem)


def test_a_detector_is_trained_by_no_other_objective(plan_configuration):
    objective = plan_configuration(dimensions=2).training.objective
    expected = "objective must be 'detection' for a network of the family detector (got 'segmentation')"
    assert objective.find_problem(build_small_network_plan("detector", 2)) == expected
