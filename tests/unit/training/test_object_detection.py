"""Training of Mask R-CNN: objects of label maps, each loss by hand, and the whole objective."""

import math
import re

import numpy as np
import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.objects import CELLS, TWO_CLASSES, are_same_objects, draw_balls
from torch.nn import functional

from autoseg.labels import InstanceTargets
from autoseg.networks import build_network
from autoseg.plan.losses import SegmentationObjective
from autoseg.plan.objectives import MaskRcnnObjective
from autoseg.preprocessing.instance_targets import build_core_and_border
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.objectives.object_detection import (
    ObjectDetection,
    compare_labels,
    compare_masks,
    compare_offsets,
    find_counted_cells,
    find_ignored,
)
from autoseg.training.objectives.object_targets import IGNORED, MOST_OBJECTS, find_object_targets, number_objects

SPACING = (999.0, 1.0, 1.0)
EVEN = SPACING[1:]
IGNORING = InstanceTargets(labels=build_labels({"cell": (1,)}, ignore_value=2), border_fraction=0.25)


def build_objective(**changes) -> MaskRcnnObjective:
    fields = {
        "cells_per_object": 13,
        "score_power": 1.0,
        "overlap_power": 6.0,
        "negative_weight": 0.75,
        "focusing_power": 2.0,
        "box_loss": "giou",
        "box_weight": 2.5,
        "class_weight": 1.0,
        "offset_weight": 1.0,
        "mask_weight": 1.0,
    }
    return MaskRcnnObjective.model_validate(fields | changes)


def label(
    numbers: np.ndarray,
    targets: InstanceTargets,
    classes: np.ndarray | None = None,
    spacing_mm: tuple[float, float, float] = SPACING,
) -> np.ndarray:
    """Cores and borders of numbered objects."""
    values = (numbers > 0) if classes is None else classes
    return build_core_and_border(values.astype(np.int16), numbers, spacing_mm=spacing_mm, targets=targets)


def test_objects_of_cores_and_borders_are_those_that_made_them():
    numbers = draw_balls((1, 48, 48), {5: ((0, 14, 14), 8.0), 9: ((0, 14, 28), 7.0), 7: ((0, 38, 38), 6.0)})
    found, kinds = number_objects(label(numbers, CELLS)[0], 1, EVEN)
    assert are_same_objects(found, numbers[0])
    assert kinds.tolist() == [0, 0, 0]


def test_the_border_of_a_large_object_is_its_own_where_the_core_of_another_component_is_nearer():
    numbers = draw_balls((1, 48, 56), {1: ((0, 24, 22), 14.0), 2: ((0, 24, 40), 2.0)})
    found, kinds = number_objects(label(numbers, CELLS)[0], 1, EVEN)
    assert are_same_objects(found, numbers[0])
    assert kinds.tolist() == [0, 0]


def test_borders_go_to_the_nearest_core_in_millimetres():
    numbers, spacing_mm = np.zeros((8, 20, 20), np.int32), (4.0, 1.0, 1.0)
    numbers[1:4, 1:18, 1:18], numbers[4:7, 12:18, 12:18] = 1, 2
    label_map = label(numbers, CELLS, spacing_mm=spacing_mm)
    assert are_same_objects(number_objects(label_map, 1, spacing_mm)[0], numbers)
    assert not are_same_objects(number_objects(label_map, 1, (1.0, 1.0, 1.0))[0], numbers)


def test_what_a_patch_cuts_off_from_its_core_is_an_object_of_its_own():
    label_map = np.zeros((8, 12), np.int16)
    label_map[2:6, 0:2] = 2
    label_map[2:6, 6:10] = 2
    label_map[3:5, 7:9] = 1
    found, _ = number_objects(label_map, 1, EVEN)
    assert np.unique(found[:, :2]).tolist() == [0, 2]
    assert np.unique(found[:, 6:]).tolist() == [0, 1]


def test_targets_are_boxes_classes_and_numbers_and_ignored_voxels_are_neither():
    label_map = torch.zeros((2, 10, 12), dtype=torch.int16)
    label_map[0, 1:3, 1:4] = 1  # core of cell
    label_map[0, 5:9, 4:9] = 4  # border of gland
    label_map[0, 6:8, 5:8] = 2
    label_map[0, 0, 10:] = 5  # ignored
    found = find_object_targets(label_map, TWO_CLASSES.target_labels, EVEN)
    assert found.boxes[0, :2].tolist() == [[[5, 4], [9, 9]], [[1, 1], [3, 4]]]
    assert found.classes[0, :2].tolist() == [1, 0]
    assert found.is_object.sum(dim=1).tolist() == [2, 0]
    assert found.boxes.shape == (2, MOST_OBJECTS, 2, 2)
    assert found.numbers[0].unique().tolist() == [IGNORED, 0, 1, 2]
    assert (found.numbers[0, 5:9, 4:9] == 1).all()


def test_the_largest_of_many_objects_are_kept_and_others_are_no_background():
    label_map = torch.zeros((1, 30, 30), dtype=torch.int16)
    label_map[0, ::2, ::2] = 1
    label_map[0, 29, 1:28] = 1
    found = find_object_targets(label_map, CELLS.target_labels, EVEN)
    assert found.is_object.all()
    assert (found.numbers == IGNORED).any()
    assert found.boxes[0, 0].tolist()[1][1] >= 28


def test_cells_in_objects_that_are_left_out_do_not_count():
    numbers = torch.tensor([[[0, 0, 1, 1], [0, IGNORED, 1, IGNORED]]])
    centres = torch.tensor([[0.5, 0.5], [1.5, 1.5], [1.0, 3.0], [0.9, 3.9]])
    assert find_counted_cells(numbers, centres).tolist() == [[True, False, False, True]]


def test_only_masks_of_the_true_class_and_of_positive_regions_count():
    logits = torch.randn(1, 3, 2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kinds, wanted = torch.tensor([[1, 0, 1]]), torch.ones(1, 3, 4)
    positive = torch.tensor([[True, True, False]])
    loss, count = compare_masks(logits, kinds, wanted, positive[..., None].expand(-1, -1, 4))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert count == 8
    has_gradient = gradient.abs().amax(dim=-1)[0] > 0
    assert has_gradient.tolist() == [[False, True], [True, False], [False, False]]
    by_hand = functional.softplus(-logits[0, 0, 1]).sum() + functional.softplus(-logits[0, 1, 0]).sum()
    torch.testing.assert_close(loss, by_hand)


def test_only_boxes_of_the_true_class_and_of_positive_regions_count():
    offsets = torch.zeros(1, 2, 2, 2, 2, requires_grad=True)
    wanted = torch.tensor([[[[1.0, 0.0], [0.0, 0.05]], [[9.0, 9.0], [9.0, 9.0]]]])
    loss = compare_offsets(offsets, torch.tensor([[1, 0]]), wanted, is_positive=torch.tensor([[True, False]]))
    assert loss.item() == pytest.approx((1 - 1 / 18) + 0.05**2 * 9 / 2)  # linear, and quadratic below 1 / 9
    (gradient,) = torch.autograd.grad(loss, offsets)
    assert gradient.abs().sum(dim=(-2, -1))[0].gt(0).tolist() == [[False, True], [False, False]]


def test_regions_without_an_object_are_background_and_others_do_not_count():
    logits = torch.tensor([[[1.0, 2.0, 3.0]] * 3])
    loss = compare_labels(
        logits,
        torch.tensor([[1, 1, 1]]),
        is_positive=torch.tensor([[True, False, False]]),
        is_compared=torch.tensor([[True, True, False]]),
    )
    total = math.log(math.e + math.e**2 + math.e**3)
    assert loss.item() == pytest.approx((total - 3) + (total - 1), rel=1e-5)


def test_a_region_of_ignored_voxels_is_found():
    numbers = torch.zeros((1, 8, 8), dtype=torch.int64)
    numbers[0, :4] = IGNORED
    boxes = torch.tensor([[[[0.0, 0.0], [4.0, 4.0]], [[3.0, 0.0], [8.0, 4.0]]]])
    assert find_ignored(numbers, boxes).tolist() == [[True, False]]


@pytest.fixture
def build_parts(plan_configuration):
    """A network and its objective."""

    def build(targets=CELLS, *, part=None, dimensions=2, outputs=3, **changes):
        fields = {
            "strides": ((1,) * dimensions, (2,) * dimensions, (2,) * dimensions),
            "kernel_sizes": ((3,) * dimensions,) * 3,
            "input_channels": 1,
            "output_channels": outputs,
            **changes,
        }
        network = build_small_network_plan("mask_rcnn", dimensions, **fields)
        configuration = plan_configuration(dimensions=dimensions)
        training = configuration.training.model_copy(update={"objective": build_objective()})
        update = {"network": network, "training": training, "spacing_mm": (1.0, 2.0, 2.0)[-dimensions:]}
        plan = configuration.model_copy(update=update)
        built = build_network(network, torch.Generator().manual_seed(0))
        return built, ObjectDetection(plan, targets.target_labels, built, part=part or BatchPart(), seed=0)

    return build


def make_batch(targets=CELLS, *, dimensions=2, batch=2):
    shape = (1, 24, 24) if dimensions == 2 else (8, 16, 16)
    numbers = draw_balls(shape, {1: (tuple(extent // 2 - 1 for extent in shape), 5.0)})
    label_map = torch.from_numpy(label(numbers, targets)).reshape(shape[-dimensions:])
    image = (label_map > 0).float() + 0.1 * torch.randn(shape[-dimensions:], generator=torch.Generator().manual_seed(0))
    repeats = (batch, *(1,) * dimensions)
    return Batch(image=image.repeat(repeats)[:, None], label_map=label_map.repeat(repeats))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_all_weights_learn(build_parts, dimensions):
    network, objective = build_parts(dimensions=dimensions)
    torch.manual_seed(0)
    loss, logits = objective(network, make_batch(dimensions=dimensions))
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    assert logits.shape[1] == 3
    assert (logits.argmax(dim=1) == 0).all()  # no object is drawn in training


def test_validation_draws_the_same_regions_and_predicts_as_prediction_does(build_parts):
    network, objective = build_parts()
    network.eval()
    objective.eval()
    batch = make_batch()
    losses = [objective(network, batch) for _ in range(2)]
    assert losses[0][0].item() == losses[1][0].item()
    torch.testing.assert_close(losses[0][1], network(batch.image)[0])


def test_parts_of_a_batch_add_up(build_parts):
    network, objective = build_parts()
    objective.eval()
    batch = make_batch()
    whole, _ = objective(network, batch)
    sums = []

    def keep_sum(value):
        sums.append(value.item())
        return value

    for sample in (0, 1):
        part = BatchPart(share=0.5, add_up=keep_sum, first=sample, batch_size=2)
        _, divided = build_parts(part=part)
        divided.eval()
        cut = slice(sample, sample + 1)
        divided(network, Batch(image=batch.image[cut], label_map=batch.label_map[cut]))
    totals = [first + second for first, second in zip(sums[:8], sums[8:], strict=True)]
    added = sum(total / max(1.0, count) for total, count in zip(totals[::2], totals[1::2], strict=True))
    assert whole.item() == pytest.approx(added, rel=1e-4)


def test_ignored_voxels_do_not_count(build_parts):
    network, objective = build_parts(IGNORING)
    objective.eval()
    batch = make_batch(IGNORING)
    batch.label_map[:] = 3  # ignored
    loss, _ = objective(network, batch)
    assert loss.item() == 0


def test_an_image_without_objects_teaches_that_there_are_none(build_parts):
    network, objective = build_parts()
    batch = make_batch()
    batch.label_map[:] = 0
    loss, _ = objective(network, batch)
    loss.backward()
    assert loss.isfinite()
    assert network.boxes.scores.weight.grad.abs().sum() > 0
    assert network.masks.logits.weight.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("family", "objective", "message"),
    [
        ("mask_rcnn", SegmentationObjective(), "objective must be 'mask_rcnn' for a network of the family mask_rcnn"),
        ("detector", build_objective(), r"needs a network of the family mask_rcnn \(got 'detector'\)"),
    ],
)
def test_an_objective_that_does_not_fit_is_refused(family, objective, message):
    problem = objective.find_problem(build_small_network_plan(family, 2))
    assert problem is not None
    assert re.search(message, problem)
