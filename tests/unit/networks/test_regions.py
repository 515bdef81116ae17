"""Regions of Mask R-CNN: features of boxes, what is chosen, and the map into which objects are drawn."""

import numpy as np
import pytest
import torch
from builders.objects import CELLS, TWO_CLASSES, are_same_objects, draw_balls
from torch import Tensor

from autoseg.document import parse_part
from autoseg.errors import DocumentError
from autoseg.evaluation.instances import match_objects, score_objects
from autoseg.geometry import Grid
from autoseg.networks import build_network
from autoseg.networks.parts.boxes import apply_offsets, clip_boxes, compute_offsets, suppress_boxes
from autoseg.networks.parts.regions.alignment import align_regions, choose_levels, sample_objects
from autoseg.networks.parts.regions.drawing import BACKGROUND_LOGIT, draw_objects, erode_masks, paste
from autoseg.networks.parts.regions.selection import (
    NEVER,
    Proposals,
    choose_apart,
    choose_training_regions,
    classify,
    compare_classes,
)
from autoseg.plan.network import MaskRcnnPlan
from autoseg.postprocessing.instances import build_core_maps, build_usual_rules, find_objects
from planners.architectures.mask_rcnn import MASK_RCNN

each_dimension = pytest.mark.parametrize("axes", [2, 3])


def draw_boxes(axes: int, *, count: int = 5, extent: float = 16.0, least: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(axes)
    lower = torch.rand((2, count, axes), generator=generator) * (extent - 2 * least)
    upper = lower + least + torch.rand((2, count, axes), generator=generator) * (extent - lower - least)
    return torch.stack((lower, upper), dim=2)


def find_centres(boxes: Tensor, bins: int) -> Tensor:
    """Centres of all bins: batch, box, bin, axis."""
    shares = (torch.arange(bins) + 0.5) / bins
    axes = boxes.shape[-1]
    steps = torch.stack(torch.meshgrid(*(shares,) * axes, indexing="ij"), dim=-1).reshape(-1, axes)
    return boxes[:, :, None, 0] + steps * (boxes[:, :, 1] - boxes[:, :, 0])[:, :, None]


def make_linear_map(extents: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """A map whose value at a place of the image is linear in it, at the centres of its cells."""
    places = [(torch.arange(extent) + 0.5) * step for extent, step in zip(extents, stride, strict=True)]
    grid = torch.meshgrid(*places, indexing="ij")
    return sum((axis + 1) * part / 16 for axis, part in enumerate(grid)).expand(2, 1, *extents)


@each_dimension
@pytest.mark.parametrize("samples_per_bin", [1, 2])
def test_aligned_features_of_a_linear_map_are_exact_at_the_centres_of_bins(axes: int, samples_per_bin: int) -> None:
    stride = (1, 2, 2)[-axes:]
    extents = tuple(24 // step for step in stride)
    boxes = draw_boxes(axes) + 3
    levels = [make_linear_map(extents, stride), make_linear_map(tuple(extent // 2 for extent in extents), (4,) * axes)]
    found = align_regions(levels[:1], [stride], boxes, bins=3, samples_per_bin=samples_per_bin)
    expected = (find_centres(boxes, 3) * torch.arange(1, axes + 1) / 16).sum(dim=-1)
    torch.testing.assert_close(found.flatten(3)[:, :, 0], expected, rtol=0, atol=1e-5)
    rounded = align_regions(levels[:1], [stride], boxes.round(), bins=3, samples_per_bin=samples_per_bin)
    assert (rounded.flatten(3)[:, :, 0] - expected).abs().max() > 0.01  # RoIPool rounds, and is wrong


def test_a_box_takes_its_features_from_the_level_of_its_size() -> None:
    """Each level is constant, so that a feature tells its level and its sample."""
    strides = [(2, 2), (4, 4), (8, 8)]
    levels = [
        torch.stack([torch.full((1, 128 // step, 96 // step), 10.0 * level + sample) for sample in (1, 2)])
        for level, (step, _) in enumerate(strides)
    ]
    edges = torch.tensor([10.0, 30.0, 55.0, 57.0, 111.0, 113.0])
    boxes = torch.stack((torch.zeros(6, 2), edges[:, None].expand(-1, 2)), dim=1).expand(2, -1, -1, -1)
    assert choose_levels(boxes, strides)[0].tolist() == [0, 0, 0, 1, 1, 2]
    found = align_regions(levels, strides, boxes, bins=2, samples_per_bin=2)
    assert found[0].flatten(1).tolist() == [[1.0] * 4] * 3 + [[11.0] * 4] * 2 + [[21.0] * 4]
    assert torch.equal(found[1], found[0] + 1)


def test_features_have_right_gradients_of_maps_and_boxes() -> None:
    features = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    boxes = draw_boxes(2, count=2, extent=5.0, least=1.0).requires_grad_()

    def compute(maps: Tensor, places: Tensor) -> Tensor:
        return align_regions([maps], [(1, 1)], places, bins=2, samples_per_bin=1)

    weights = torch.randn(2, 2, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((compute(features, boxes) * weights).sum(), (features, boxes))
    for which, gradient in enumerate(gradients):
        values = []
        for sign in (1, -1):
            moved = [features.detach().clone(), boxes.detach().clone()]
            moved[which].view(-1)[7] += sign * 0.01
            values.append((compute(moved[0], moved[1]) * weights).sum().item())
        assert (values[0] - values[1]) / 0.02 == pytest.approx(gradient.flatten()[7].item(), abs=1e-2)


def test_the_part_of_a_bin_that_is_an_object_is_counted() -> None:
    numbers = torch.zeros((1, 8, 8), dtype=torch.int64)
    numbers[0, 2:6, 2:6] = 3
    boxes = torch.tensor([[[[2.0, 2.0], [6.0, 6.0]], [[2.0, 0.0], [6.0, 4.0]], [[0.0, 0.0], [8.0, 8.0]]]])
    rows = torch.tensor([[3, 3, 1]])
    found = sample_objects(numbers, rows, boxes, bins=2)
    assert found[0].tolist() == [[1.0] * 4, [0.0, 1.0] * 2, [0.0] * 4]


@each_dimension
def test_offsets_turn_boxes_into_those_that_they_were_computed_from(axes: int) -> None:
    boxes, wanted = draw_boxes(axes)
    torch.testing.assert_close(apply_offsets(boxes, compute_offsets(boxes, wanted)), wanted, rtol=1e-5, atol=1e-4)
    by_hand = compute_offsets(torch.tensor([[0.0, 0.0], [4.0, 8.0]]), torch.tensor([[1.0, 0.0], [5.0, 16.0]]))
    torch.testing.assert_close(by_hand, torch.tensor([[2.5, 5.0], [0.0, 5 * np.log(2)]], dtype=torch.float32))
    assert clip_boxes(torch.tensor([[-1.0, 2.0], [9.0, 3.0]]), (4, 8)).tolist() == [[0.0, 2.0], [4.0, 3.0]]


def test_boxes_that_overlap_better_ones_only_fill_up() -> None:
    one, near, apart = [[0.0, 0.0], [4.0, 4.0]], [[0.0, 0.0], [4.0, 5.0]], [[6.0, 6.0], [9.0, 9.0]]
    places, is_kept = choose_apart(
        torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[one, near, apart]]), count=3, largest_overlap=0.5
    )
    assert places.tolist() == [[1, 2, 0]]
    assert is_kept.tolist() == [[True, True, False]]


def test_the_choice_of_boxes_is_exported_for_any_batch_size() -> None:
    class Choice(torch.nn.Module):
        def forward(self, boxes: Tensor) -> Tensor:
            return suppress_boxes(boxes, 0.5)

    boxes = draw_boxes(2)
    exported = torch.export.export(
        Choice(), (boxes,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
    )
    three = torch.cat((boxes, boxes[:1]))
    assert torch.equal(exported.module()(three), suppress_boxes(three, 0.5))


def test_a_class_is_compared_with_all_others_together() -> None:
    logits = torch.tensor([[[0.5, 2.0, -1.0]]])
    found = compare_classes(logits)
    torch.testing.assert_close(found.sigmoid(), logits.softmax(dim=-1)[..., 1:])


def test_training_regions_are_objects_first_and_others_beside_them(make_plan) -> None:
    plan = make_plan("mask_rcnn", 2, training_regions=4, positive_regions=2)
    good, poor = [[0.0, 0.0], [4.0, 4.0]], [[8.0, 8.0], [9.0, 9.0]]
    proposals = Proposals(
        boxes=torch.tensor([[good, poor, poor, good]]),
        scores=torch.zeros(1, 4),
        is_kept=torch.tensor([[True, True, True, False]]),
    )
    objects = torch.tensor([[[[20.0, 20.0], [24.0, 24.0]], [[0.0, 0.0], [4.0, 5.0]]]])
    order = torch.tensor([[0.1, 0.2, 0.9, 0.8, 0.7, 0.6, 0.5]])
    found = choose_training_regions(plan, proposals, objects, is_object=torch.tensor([[False, True]]), order=order)
    assert found.boxes[0].tolist() == [objects[0, 1].tolist(), good, poor, poor]
    assert found.is_positive.tolist() == [[True, True, False, False]]
    assert found.is_compared.tolist() == [[True] * 4]
    assert found.objects[0, :2].tolist() == [1, 1]
    none = choose_training_regions(plan, proposals, objects, is_object=torch.tensor([[False, False]]), order=order)
    assert none.is_compared.tolist() == [[False, False, True, True]]


def test_masks_are_eroded_by_a_part_of_their_depth_and_never_vanish() -> None:
    masks = torch.full((1, 3, 12, 12), -5.0)
    masks[0, 0] = 5.0  # depth 6: 1.5, so two voxels
    masks[0, 1, 4:7, 2:10] = 5.0  # depth 2
    masks[0, 2, 5, 5] = 5.0
    found = erode_masks(masks, 0.25) > 0
    assert found[0].sum(dim=(1, 2)).tolist() == [8 * 8, 1 * 6, 1]


def test_masks_are_interpolated_between_the_centres_of_their_voxels() -> None:
    masks = torch.tensor([[[[[0.0, 2.0], [4.0, 6.0]]]]])
    found = paste(masks, torch.tensor([[[[0.0, 0.0], [4.0, 4.0]]]]), (4, 5))[0, 0, 0]
    along = torch.tensor([0.0, 0.25, 0.75, 1.0])
    torch.testing.assert_close(found[:, :4], 4 * along[:, None] + 2 * along)
    assert (found[:, 4] == BACKGROUND_LOGIT).all()


def draw(numbers: np.ndarray, classes: list[int], targets, *, scores: list[float] | None = None) -> Tensor:
    """The map of perfect heads: masks that are sure, in the boxes of the objects."""
    values = [value for value in np.unique(numbers) if value]
    axes = numbers.ndim
    boxes = torch.tensor(
        [[[part.min(), part.max() + 1] for part in np.nonzero(numbers == value)] for value in values]
    ).mT.float()[None]
    index = torch.from_numpy(np.searchsorted([0, *values], numbers))
    rows = torch.arange(1, 1 + len(values))[None]
    masks = 16 * (sample_objects(index[None], rows, boxes, bins=28) - 0.5)
    return draw_objects(
        masks.reshape(1, len(values), *(28,) * axes),
        boxes,
        torch.tensor([scores or [6.0] * len(values)]),
        torch.tensor([classes]),
        extents=numbers.shape,
        class_count=targets.class_count,
        border_fraction=0.25,
    )


def separate(logits: Tensor, targets) -> np.ndarray:
    """The objects of a map, by the rule of predictions."""
    probabilities = logits.softmax(dim=1)[0].numpy()
    probabilities = probabilities if logits.ndim == 5 else probabilities[:, None]
    shape = probabilities.shape[1:]
    grid = Grid(shape_voxels=shape, spacing_mm=(1.0, 1.0, 1.0))
    whole = (slice(None),) * 3
    maps = build_core_maps([(whole, probabilities)], shape, targets)
    return find_objects(maps, build_usual_rules(targets.labels), grid=grid).numbers


BALLS = {5: ((12, 12, 14), 8.0), 9: ((12, 12, 29), 7.0), 7: ((12, 26, 20), 7.5), 2: ((12, 38, 40), 2.0)}


@each_dimension
def test_perfect_heads_of_touching_objects_give_an_average_precision_of_1(axes: int) -> None:
    numbers = draw_balls((24, 48, 48), BALLS)
    numbers = numbers[12] if axes == 2 else numbers
    found = separate(draw(numbers, [0] * 4, CELLS), CELLS)
    expected = numbers.reshape(found.shape)
    scores = score_objects([match_objects(found, expected)])
    assert (scores.AP50, scores.AP75, scores.predicted) == (1.0, 1.0, 4)
    assert scores.SQ is not None
    assert scores.SQ > 0.9


def test_masks_without_rounding_give_the_objects_exactly() -> None:
    numbers = np.zeros((40, 70), np.int32)
    numbers[4:32, 3:31], numbers[4:32, 31:59] = 1, 2
    found = separate(draw(numbers, [0, 0], CELLS), CELLS)
    assert are_same_objects(found[0], numbers)


def test_a_thin_object_between_others_keeps_its_core() -> None:
    numbers = np.zeros((20, 24, 24), np.int32)
    for value, slices in enumerate((slice(1, 9), slice(9, 11), slice(11, 19)), start=1):
        numbers[slices, 4:20, 4:20] = value
    found = separate(draw(numbers, [0] * 3, CELLS), CELLS)
    assert score_objects([match_objects(found, numbers)]).AP50 == 1.0


def test_classes_have_cores_and_borders_of_their_own() -> None:
    numbers = np.zeros((40, 70), np.int32)
    numbers[4:32, 3:31], numbers[4:32, 31:59] = 1, 2
    labels = draw(numbers, [0, 1], TWO_CLASSES).argmax(dim=1)[0]
    assert (labels[17, 17], labels[17, 45]) == (1, 2)
    assert (labels[17, 4], labels[17, 57], labels[0, 0]) == (3, 4, 0)
    assert set(np.unique(labels[4:32, 30].numpy())) == {3}  # where they touch, both are border
    assert set(np.unique(labels[4:32, 31].numpy())) == {4}


def test_the_object_of_the_higher_score_has_the_voxels_of_both() -> None:
    masks = torch.full((1, 2, 4, 4), 8.0)
    boxes = torch.tensor([[[[0.0, 0.0], [8.0, 8.0]], [[0.0, 4.0], [8.0, 12.0]]]])
    logits = draw_objects(
        masks,
        boxes,
        torch.tensor([[1.0, 0.5]]),
        torch.tensor([[0, 1]]),
        extents=(8, 14),
        class_count=2,
        border_fraction=0.25,
    )
    labels = logits.argmax(dim=1)[0, 3]
    assert labels.tolist() == [3, 3, 1, 1, 1, 1, 3, 3, 4, 2, 4, 4, 0, 0]
    foreground = logits.softmax(dim=1)[0, :, 3]
    assert (foreground[1, 4] + foreground[3, 4]).item() == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.02)
    never = draw_objects(
        masks,
        boxes,
        torch.full((1, 2), NEVER),
        torch.tensor([[0, 1]]),
        extents=(8, 14),
        class_count=2,
        border_fraction=0.25,
    )
    assert (never.argmax(dim=1) == 0).all()


def test_a_box_is_as_sure_as_the_less_sure_one_of_proposal_and_class(make_plan) -> None:
    plan = make_plan("mask_rcnn", 2)
    box = [[0.0, 0.0], [4.0, 4.0]]
    apart = [[8.0, 8.0], [12.0, 12.0]]
    proposals = Proposals(
        boxes=torch.tensor([[box, apart]]), scores=torch.tensor([[9.0, -3.0]]), is_kept=torch.tensor([[True, True]])
    )
    boxes, scores, classes = classify(
        plan,
        proposals,
        torch.tensor([[[0.0, 2.0], [0.0, 9.0]]]),
        torch.zeros(1, 2, 1, 2, 2),
        extents=torch.Size((16, 16)),
        count=2,
    )
    torch.testing.assert_close(scores, torch.tensor([[2.0, -3 - np.log(0.05 / 0.95)]], dtype=torch.float32))
    assert boxes[0].tolist() == [box, apart]
    assert classes.tolist() == [[0, 0]]


def test_the_published_network_has_the_published_parameters() -> None:
    """Those of torchvision's network for COCO, whose batch normalization is frozen and has none.

    It has outputs of boxes and masks for background, which nothing trains, and three anchors where this has one box.
    """
    plan = MASK_RCNN.published[0].plan
    assert isinstance(plan, MaskRcnnPlan)
    with torch.device("meta"):
        network = build_network(plan)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    frozen = sum(parameter.numel() for module in norms for parameter in module.parameters())
    hidden, features = plan.hidden_features, plan.pyramid_features
    background = 4 * (hidden + 1) + features + 1
    anchors = 2 * (1 + 4) * (features + 1)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted - frozen + background + anchors == 44_401_393


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_channels": 4}, r"output_channels must be 3, 5, .*--task instances plans them \(got 4\)"),
        ({"levels": 3}, "levels must be at most 2, the number of stages with features"),
        ({"positive_regions": 7}, "positive_regions must be at most training_regions, 6"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(make_plan, changes, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        parse_part(make_plan("mask_rcnn").model_dump() | changes, MaskRcnnPlan, where="network")
