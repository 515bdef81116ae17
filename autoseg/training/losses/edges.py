"""Edges of a label map as the target of an output of their own, and the loss of such an output."""

from collections.abc import Iterator
from itertools import product
from math import floor
from typing import Final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.targets import Target, place_table

REACH: Final = 2.0
"""A voxel lies on an edge if a voxel of another class is at most so many times the finest spacing away: the radius of
Takikawa et al. 2019 (Gated-SCNN, arXiv:1907.05740), in pixels."""
ROUNDING: Final = 1e-6


def compute_edge_entropy(logits: Float[Tensor, "batch 1 *space"], target: Target, part: BatchPart) -> Float[Tensor, ""]:
    """Computes the mean of balanced binary cross entropy over the voxels that are not ignored; 0 without such voxels.

    Voxels on edges have the share of all others as their weight, and these the share of edges (Xie and Tu 2015,
    arXiv:1504.06375), both of the whole batch.
    """
    edges = find_edges(target)[:, None]
    valid = torch.ones_like(edges) if target.valid is None else target.valid
    count = part.add_up(valid.sum()).clamp_min(1)
    share = part.add_up((edges & valid).sum()) / count
    entropy = functional.binary_cross_entropy_with_logits(logits, edges.to(logits.dtype), reduction="none")
    weights = torch.where(edges, 1 - share, share) * valid
    return part.add_up((weights * entropy).sum()) / count


def find_edges(target: Target) -> Bool[Tensor, " batch *space"]:
    """Finds the voxels near which the class changes: within `REACH` times the finest spacing, in mm.

    Across thick slices, which are farther apart than that, nothing is compared, as the boundary may lie anywhere
    between them. Ignored voxels have no edges and make none; neither does the border of the patch.
    """
    codes = _find_codes(target)
    edges = torch.zeros_like(codes, dtype=torch.bool)
    for offset in _list_offsets(target.spacing_mm):
        here, there = _list_cuts(offset)
        first, second = codes[here], codes[there]
        differs = (first != second) & (first >= 0) & (second >= 0)
        edges[here] |= differs
        edges[there] |= differs
    return edges


def _find_codes(target: Target) -> Int64[Tensor, " batch *space"]:
    """Numbers the voxels so that those of the same classes have the same number; -1 is ignored."""
    members = target.labels.class_labels
    highest = max(max(max(labels) for labels in members), target.labels.ignore_label or 0)
    kinds = [tuple(label in labels for labels in members) for label in range(highest + 1)]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    codes = [numbers[kind] for kind in kinds]
    if target.labels.ignore_label is not None:
        codes[target.labels.ignore_label] = -1
    table = place_table((tuple(codes),), target.label_map.device, torch.int64)
    return table[0][target.label_map.clamp_min(0).long()]


def _list_offsets(spacing_mm: tuple[float, ...]) -> Iterator[tuple[int, ...]]:
    """Lists the offsets of all neighbours within reach, of two opposite ones the one that is greater."""
    reach_mm = REACH * min(spacing_mm) * (1 + ROUNDING)
    ranges = [range(-floor(reach_mm / spacing), floor(reach_mm / spacing) + 1) for spacing in spacing_mm]
    origin = (0,) * len(spacing_mm)
    for offset in product(*ranges):
        distances = (steps * spacing for steps, spacing in zip(offset, spacing_mm, strict=True))
        if offset > origin and sum(distance**2 for distance in distances) <= reach_mm**2:
            yield offset


def _list_cuts(offset: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Cuts out the voxels that have a neighbour at an offset, and these neighbours."""
    here = (slice(max(0, -steps), -steps if steps > 0 else None) for steps in offset)
    there = (slice(max(0, steps), steps if steps < 0 else None) for steps in offset)
    return (slice(None), *here), (slice(None), *there)
