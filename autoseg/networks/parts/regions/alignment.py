"""Features of boxes, interpolated without rounding their corners (RoIAlign, He et al. 2017, arXiv:1703.06870).

Samples are gathered, not computed by `grid_sample`: all levels of a pyramid are sampled at once, each box in its own,
and a box outside the border continues it.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from autoseg.runtime.streams import fill_numbers

CELLS_PER_EDGE: Final = 14.0
"""Cells along an edge of a box, at least, at the level from which its features come: 224 pixels at a stride of 16."""


Samples = tuple[Int[Tensor, "batch box bin voxel"], Float[Tensor, "batch box bin voxel"]]
"""Indices of voxels of flattened maps, and their weights, which add up to 1 in every bin."""


def align_regions(
    levels: Sequence[Float[Tensor, "batch channel ..."]],
    strides: Sequence[Sequence[int]],
    boxes: Float[Tensor, "batch box 2 axes"],
    *,
    bins: int,
    samples_per_bin: int,
) -> Float[Tensor, "batch box channel ..."]:
    """Computes the features of boxes: in every bin the mean of linear interpolations at evenly spaced points.

    Args:
        levels: Features of several resolutions, the highest first.
        strides: Voxels of the image per cell of each.
        boxes: Corners in voxels of the image.
        bins: Bins along each axis of a box.
        samples_per_bin: Points along each axis of a bin.
    """
    chosen = choose_levels(boxes, strides)
    voxels, weights = locate_samples(
        boxes,
        _fill_rows(strides, boxes.device, boxes.dtype)[chosen],
        [tuple(level.shape[2:]) for level in levels],
        chosen=chosen,
        bins=bins,
        samples_per_bin=samples_per_bin,
    )
    table = torch.cat([level.flatten(2).mT for level in levels], dim=1).float()
    first = torch.arange(boxes.shape[0], device=boxes.device)[:, None, None, None] * table.shape[1]
    found = functional.embedding_bag(
        (voxels + first).flatten(0, 2),
        table.flatten(0, 1),
        per_sample_weights=weights.flatten(0, 2),
        mode="sum",
    )
    aligned = found.reshape(*voxels.shape[:3], table.shape[-1]).mT
    return aligned.reshape(*aligned.shape[:3], *(bins,) * boxes.shape[-1]).to(levels[0].dtype)


def sample_objects(
    numbers: Int[Tensor, " batch *space"],
    rows: Int[Tensor, "batch box"],
    boxes: Float[Tensor, "batch box 2 axes"],
    *,
    bins: int,
) -> Float[Tensor, "batch box bin"]:
    """Computes which part of every bin belongs to the object of its box, by linear interpolation.

    Args:
        numbers: Number of the object of every voxel.
        rows: Number of the object of every box.
        boxes: Corners in voxels.
        bins: Bins along each axis of a box.
    """
    none = torch.zeros_like(rows)
    voxels, weights = locate_samples(
        boxes, torch.ones_like(boxes[:, :, 0]), [tuple(numbers.shape[1:])], chosen=none, bins=bins, samples_per_bin=1
    )
    found = numbers.flatten(1).gather(1, voxels.flatten(1)).reshape(voxels.shape)
    return ((found == rows[:, :, None, None]) * weights).sum(dim=-1)


def choose_levels(
    boxes: Float[Tensor, "batch box 2 axes"], strides: Sequence[Sequence[int]]
) -> Int[Tensor, "batch box"]:
    """Chooses the coarsest level at which an edge of a box has enough cells (the mean of its axes), or the finest."""
    edges = (boxes[..., 1, :] - boxes[..., 0, :]).clamp(min=1).log().mean(dim=-1)
    sizes = _fill_rows(strides, edges.device, edges.dtype).log().mean(dim=-1)
    limits = edges.new_full((), CELLS_PER_EDGE).log()
    return ((edges[..., None] - sizes >= limits).sum(dim=-1) - 1).clamp(min=0)


def locate_samples(
    boxes: Float[Tensor, "batch box 2 axes"],
    strides: Float[Tensor, "batch box axes"],
    extents: Sequence[tuple[int, ...]],
    *,
    chosen: Int[Tensor, "batch box"],
    bins: int,
    samples_per_bin: int,
) -> Samples:
    """Locates the neighbours of the points of all bins.

    Args:
        boxes: Corners in voxels of the image.
        strides: Voxels per cell of the level of every box.
        extents: Cells of every level along each axis.
        chosen: Level of every box.
        bins: Bins along each axis of a box.
        samples_per_bin: Points along each axis of a bin.
    """
    sizes = [prod(extent) for extent in extents]
    first = fill_numbers([sum(sizes[:level]) for level in range(len(sizes))], boxes.device)[chosen]
    counts = _fill_rows(extents, boxes.device, torch.int64)[chosen]
    voxels = torch.zeros_like(first)[:, :, None, None]
    weights = torch.ones_like(voxels, dtype=boxes.dtype)
    shares = (torch.arange(bins * samples_per_bin, device=boxes.device, dtype=boxes.dtype) + 0.5) / (
        bins * samples_per_bin
    )
    for axis in range(boxes.shape[-1]):
        lower, upper, count = boxes[..., 0, axis, None], boxes[..., 1, axis, None], counts[..., axis, None]
        points = (lower + shares * (upper - lower)) / strides[..., axis, None] - 0.5
        points = torch.minimum(points.clamp(min=0), count - 1)
        below = points.detach().nan_to_num().floor()  # weights that diverged give no index
        ends = torch.stack((below.long(), torch.minimum(below.long() + 1, count - 1)), dim=-1)
        parts = torch.stack((1 - (points - below), points - below), dim=-1) / samples_per_bin
        voxels = _join(voxels * count[..., None], ends, bins, torch.add)
        weights = _join(weights, parts, bins, torch.mul)
    return voxels + first[:, :, None, None], weights


def _fill_rows(rows: Sequence[Sequence[int]], device: torch.device, dtype: torch.dtype) -> Tensor:
    return fill_numbers(
        [number for row in rows for number in row], device, shape=(len(rows), len(rows[0])), dtype=dtype
    )


def _join(known: Tensor, along: Tensor, bins: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combines the bins and voxels of the axes before with those of one more."""
    along = along.reshape(*along.shape[:2], bins, -1)
    joined = combine(known[:, :, :, None, :, None], along[:, :, None, :, None, :])
    return joined.flatten(4).flatten(2, 3)
