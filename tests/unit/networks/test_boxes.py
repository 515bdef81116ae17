"""Arithmetic of boxes: overlaps and suppression against loops over all pairs, decoding, and drawing."""

from itertools import product

import torch
from builders.operations import record_operations
from torch import Tensor

from autoseg.networks.parts.boxes import (
    compute_pairwise_overlaps,
    decode_boxes,
    draw_boxes,
    keep_one_by_one,
    keep_until_settled,
    list_cells,
    suppress_boxes,
)

CPU = torch.device("cpu")


def draw_random_boxes(count: int, axes: int, *, seed: int = 0) -> Tensor:
    corners = torch.rand(count, 2, axes, generator=torch.Generator().manual_seed(axes + 10 * seed)) * 10
    return corners.sort(dim=1).values


def overlap_of(one: Tensor, other: Tensor) -> float:
    common, own, others = 1.0, 1.0, 1.0
    for axis in range(one.shape[-1]):
        (a, b), (c, d) = one[:, axis].tolist(), other[:, axis].tolist()
        common *= max(0.0, min(b, d) - max(a, c))
        own *= b - a
        others *= d - c
    return common / (own + others - common)


def test_overlaps_are_those_of_a_loop_over_all_pairs() -> None:
    for axes in (2, 3):
        boxes, others = draw_random_boxes(9, axes), draw_random_boxes(12, axes)[3:]
        expected = [[overlap_of(one, other) for other in others] for one in boxes]
        torch.testing.assert_close(compute_pairwise_overlaps(boxes, others), torch.tensor(expected))


def test_a_box_of_negative_extent_overlaps_nothing() -> None:
    boxes = torch.tensor([[[4.0, 0.0], [2.0, 3.0]], [[0.0, 0.0], [5.0, 5.0]]])
    assert compute_pairwise_overlaps(boxes, boxes).tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_a_box_is_suppressed_by_a_better_one_that_remains() -> None:
    for axes in (2, 3):
        boxes = draw_random_boxes(20, axes)
        kept: list[int] = []
        for box in range(20):
            if all(overlap_of(boxes[box], boxes[other]) <= 0.05 for other in kept):
                kept.append(box)
        assert 1 < len(kept) < 20
        assert suppress_boxes(boxes[None], 0.05)[0].nonzero()[:, 0].tolist() == kept


def test_a_suppressed_box_suppresses_none() -> None:
    row = torch.tensor([[[0.0, 0.0], [4.0, 1.0]], [[1.5, 0.0], [5.5, 1.0]], [[3.0, 0.0], [7.0, 1.0]]])
    assert suppress_boxes(row[None], 0.4).tolist() == [[True, False, True]]


def test_boxes_that_are_kept_at_once_are_those_that_are_kept_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for count, share in ((1, 0.5), (7, 0.5), (40, 0.02), (40, 0.1), (40, 0.9)):
        for _ in range(5):
            conflicts = torch.rand((3, count, count), generator=generator) < share
            assert torch.equal(keep_until_settled(conflicts), keep_one_by_one(conflicts))
    row = torch.eye(60, dtype=torch.bool).roll(1, 1)[None]  # each has a conflict with the next alone
    assert keep_until_settled(row)[0].tolist() == [True, False] * 30
    assert keep_until_settled(row[:, :0, :0]).shape == (1, 0)
    for axes in (2, 3):
        boxes = torch.stack([draw_random_boxes(50, axes, seed=seed) for seed in range(4)])
        conflicts = compute_pairwise_overlaps(boxes, boxes) > 0.05
        assert torch.equal(suppress_boxes(boxes, 0.05), keep_one_by_one(conflicts))


def test_a_compiler_sees_as_many_operations_for_many_boxes_as_for_few() -> None:
    def trace(count: int) -> list[str]:
        boxes = draw_random_boxes(count, 2)[None]
        return [name for name, _ in record_operations(lambda: suppress_boxes(boxes, 0.05))]

    assert trace(40) == trace(4)
    assert trace(4)[-1] == "autoseg.keep_boxes"


def test_cells_lie_in_the_order_of_features_and_distances_count_strides() -> None:
    centres, strides = list_cells((2, 3), (4, 2), CPU)
    assert centres.tolist() == [[2, 1], [2, 3], [2, 5], [6, 1], [6, 3], [6, 5]]
    distances = torch.tensor([[0.5, 1.0], [1.5, 2.0]]).expand(1, 6, 2, 2)
    assert decode_boxes(centres, strides, distances)[0, 4].tolist() == [[4.0, 1.0], [12.0, 7.0]]


def test_a_voxel_gets_the_largest_height_and_a_covered_part_of_it() -> None:
    boxes = torch.tensor([[[[1.0, 0.0], [3.0, 2.5]], [[2.0, 2.0], [9.0, 4.0]]]])
    heights = torch.tensor([[[2.0, 0.0], [3.0, 1.0]]])
    drawn = draw_boxes(boxes, heights, (4, 4))
    assert drawn[0, 0].tolist() == [[0, 0, 0, 0], [2, 2, 1, 0], [2, 2, 3, 3], [0, 0, 3, 3]]
    assert drawn[0, 1].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_boxes_are_drawn_in_volumes() -> None:
    boxes = torch.tensor([[[[1.0, 0.0, 2.0], [2.0, 2.0, 3.5]]]])
    drawn = draw_boxes(boxes, torch.full((1, 1, 1), 4.0), (3, 3, 5))[0, 0]
    parts = {(z, y, x): 4.0 * (1.0 if x == 2 else 0.5) for z, y, x in product((1,), (0, 1), (2, 3))}
    assert {tuple(place): drawn[tuple(place)].item() for place in drawn.nonzero().tolist()} == parts
