"""Edges of label maps, and the loss of the output that finds them."""

import math

import pytest
import torch
from builders.labels import build_labels, build_plain_labels

from autoseg.runtime.distributed import WHOLE_BATCH, BatchPart
from autoseg.training.losses.edges import compute_edge_entropy, find_edges
from autoseg.training.losses.targets import build_target, place_table

LABELS = build_plain_labels(2)


def read_map(*rows: str) -> torch.Tensor:
    """One image whose voxels are digits; a dot is voxels outside the nonzero region."""
    return torch.tensor([[[-1 if digit == "." else int(digit) for digit in row] for row in rows]], dtype=torch.int16)


def find(label_map: torch.Tensor, labels=LABELS, spacing_mm: tuple[float, ...] = (1.0, 1.0)) -> list[str]:
    edges = find_edges(build_target(label_map, labels, spacing_mm=spacing_mm))[0]
    return ["".join("x" if voxel else "-" for voxel in row) for row in edges.tolist()]


def test_voxels_within_two_voxels_of_another_class_lie_on_an_edge() -> None:
    found = find(read_map("0000000", "0000000", "0000000", "0001000", "0000000", "0000000", "0000000"))
    assert found == ["-------", "---x---", "--xxx--", "-xxxxx-", "--xxx--", "---x---", "-------"]


def test_two_labels_that_touch_have_an_edge_and_the_border_of_the_patch_has_none() -> None:
    assert find(read_map("11111222222")) == ["---xxxx----"]
    assert find(read_map("1111")) == ["----"]
    assert find(read_map("..00...")) == ["-------"]  # what was cropped away is background


def test_regions_have_the_edges_of_their_union_of_labels() -> None:
    regions = build_labels({"whole": (1, 2), "edema": (1, 2)}, region_write_values=(1, 2))
    nested = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
    label_map = read_map("00001111112222")
    assert find(label_map, regions) == ["--xxxx--------"]
    assert find(label_map, nested) == ["--xxxx--xxxx--"]


def test_ignored_voxels_have_no_edges_and_make_none() -> None:
    labels = build_plain_labels(1, with_ignore=True)
    assert find(read_map("11112222"), labels) == ["--------"]
    assert find(read_map("00200111"), labels) == ["---xxxx-"]


def test_distances_count_in_millimetres_so_that_thick_slices_are_not_compared() -> None:
    label_map = torch.zeros((1, 3, 1, 7), dtype=torch.int16)
    label_map[0, 1, 0, 3] = 1  # a single voxel, in the middle slice

    def find_slices(*spacing_mm: float) -> list[str]:
        edges = find_edges(build_target(label_map, LABELS, spacing_mm=spacing_mm))[0, :, 0]
        return ["".join("x" if voxel else "-" for voxel in row) for row in edges.tolist()]

    assert find_slices(5.0, 1.0, 1.0) == ["-------", "-xxxxx-", "-------"]
    assert find_slices(1.5, 1.0, 1.0) == ["--xxx--", "-xxxxx-", "--xxx--"]
    assert find_slices(1.0, 1.0, 2.0) == ["---x---", "--xxx--", "---x---"]
    assert find_slices(5.0, 1.0, 1.0) == find_slices(2.5, 0.5, 0.5)


def test_the_loss_weights_edges_and_the_rest_by_each_others_share() -> None:
    target = build_target(read_map("1111100000"), LABELS, spacing_mm=(1.0, 1.0))  # four of ten are edges
    logits = torch.zeros((1, 1, 1, 10))
    logits[..., 4] = 2.0  # on the edge
    expected = (0.6 * (math.log1p(math.exp(-2)) + 3 * math.log(2)) + 0.4 * 6 * math.log(2)) / 10
    assert compute_edge_entropy(logits, target, WHOLE_BATCH).item() == pytest.approx(expected, rel=1e-6)


def test_ignored_voxels_have_a_gradient_of_zero_and_do_not_count() -> None:
    labels = build_plain_labels(1, with_ignore=True)
    ignored, cut = read_map("1110000222"), read_map("1110000")
    logits = torch.randn((1, 1, 1, 10), generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = compute_edge_entropy(logits, build_target(ignored, labels, spacing_mm=(1.0, 1.0)), WHOLE_BATCH)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[..., 7:].any()
    assert gradient[..., :7].all()
    alone = compute_edge_entropy(logits[..., :7], build_target(cut, labels, spacing_mm=(1.0, 1.0)), WHOLE_BATCH)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-6)
    everything = build_target(read_map("22"), labels, spacing_mm=(1.0, 1.0))
    assert compute_edge_entropy(logits[..., :2], everything, WHOLE_BATCH).item() == 0


def test_the_parts_of_a_batch_add_up_to_the_loss_of_the_whole() -> None:
    label_map = torch.cat((read_map("1111100000"), read_map("0000000001")))
    logits = torch.randn((2, 1, 1, 10), generator=torch.Generator().manual_seed(0))

    def measure(rows: slice, part: BatchPart) -> torch.Tensor:
        return compute_edge_entropy(logits[rows], build_target(label_map[rows], LABELS, spacing_mm=(1.0, 1.0)), part)

    whole, sums = measure(slice(None), WHOLE_BATCH), []
    measure(slice(0, 1), BatchPart(share=0.5, add_up=lambda value: sums.append(value) or value))
    assert len(sums) == 3  # voxels, edges, entropies
    parts = []
    for index in range(2):
        known = iter([torch.tensor(20), torch.tensor(7)])  # voxels and edges of both parts
        part = BatchPart(share=0.5, add_up=lambda value, known=known: next(known, value))
        parts.append(measure(slice(index, index + 1), part))
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-6)


def test_nothing_is_copied_to_the_device_for_a_second_batch() -> None:
    find(read_map("0012"))
    before = place_table.cache_info()
    find(read_map("2100"))
    after = place_table.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
