"""Arithmetic of boxes. A box is its lower and its upper corner: a tensor of shape (..., 2, axes)."""

from collections.abc import Sequence
from math import log
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autoseg.runtime.streams import fill_numbers

SMALLEST: Final = 1e-9
"""Keeps quotients of empty boxes finite."""

BOXES_AT_ONCE: Final = 8
"""Boxes that are drawn in one step, each into an array of the size of the map."""

SHIFT_DEVIATION: Final = 0.1  # as published, as is the next
RATIO_DEVIATION: Final = 0.2
LARGEST_RATIO: Final = log(1000 / 16)
"""Bound of logarithms, so that no box becomes infinite."""

Boxes = Float[Tensor, "*boxes 2 axes"]


def compute_volumes(boxes: Boxes) -> Float[Tensor, " *boxes"]:
    """Computes volumes (in 2D areas); a box whose upper corner lies below the lower one is empty."""
    return (boxes[..., 1, :] - boxes[..., 0, :]).clamp(min=0).prod(dim=-1)


def compute_unions(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the intersection over union of boxes and others, which are broadcast, and the volumes of the unions."""
    lower = torch.maximum(boxes[..., 0, :], others[..., 0, :])
    upper = torch.minimum(boxes[..., 1, :], others[..., 1, :])
    common = (upper - lower).clamp(min=0).prod(dim=-1)
    unions = compute_volumes(boxes) + compute_volumes(others) - common
    return common / unions.clamp(min=SMALLEST), unions


def compute_pairwise_overlaps(
    boxes: Float[Tensor, "*batch own 2 axes"], others: Float[Tensor, "*batch other 2 axes"]
) -> Float[Tensor, "*batch own other"]:
    """Computes the intersection over union of every box with every other one."""
    return compute_unions(boxes[..., :, None, :, :], others[..., None, :, :, :])[0]


def suppress_boxes(boxes: Float[Tensor, "batch box 2 axes"], largest_overlap: float) -> Bool[Tensor, "batch box"]:
    """Tells which boxes remain, from those of the highest score, which are first, to those of the lowest.

    A box does not remain whose intersection over union with one that remains is larger than `largest_overlap`.
    """
    conflicts = compute_pairwise_overlaps(boxes, boxes) > largest_overlap
    if torch.compiler.is_exporting():  # to where there is no such operation
        return keep_one_by_one(conflicts)
    kept: Tensor = torch.ops.autoseg.keep_boxes(conflicts)
    return kept


def keep_one_by_one(conflicts: Bool[Tensor, "batch box other"]) -> Bool[Tensor, "batch box"]:
    """Keeps every box that has no conflict with one before it that is kept; waits for no device."""
    kept = torch.ones((conflicts.shape[0], 0), dtype=torch.bool, device=conflicts.device)
    for box in range(conflicts.shape[1]):
        is_suppressed = (kept & conflicts[:, :box, box]).any(dim=1, keepdim=True)
        kept = torch.cat((kept, ~is_suppressed), dim=1)
    return kept


def keep_until_settled(conflicts: Bool[Tensor, "batch box other"]) -> Bool[Tensor, "batch box"]:
    """Computes the same from guesses for all boxes at once.

    Each guess is right for one box more than the one before, the first box being kept: so the only guess that does not
    change is the result, and in most images a few suffice.
    """
    before = conflicts.triu(diagonal=1)
    kept, former = torch.ones(conflicts.shape[:2], dtype=torch.bool, device=conflicts.device), None
    while former is None or not torch.equal(kept, former):
        kept, former = ~(kept[..., None] & before).any(dim=1), kept
    return kept


def _keep_nothing_known(conflicts: Tensor) -> Tensor:
    return conflicts.new_empty(conflicts.shape[:2])


BUILD_LIBRARY: Final[Any] = torch.library.Library  # which torch leaves without annotations
OPERATIONS: Final = BUILD_LIBRARY("autoseg", "DEF")
"""Operations that a compiler calls: it would unroll the loop over the boxes, which takes it a minute for 200."""
OPERATIONS.define("keep_boxes(Tensor conflicts) -> Tensor")
OPERATIONS.impl("keep_boxes", keep_one_by_one, "CompositeExplicitAutograd")
OPERATIONS.impl("keep_boxes", keep_until_settled, "CPU")
OPERATIONS.impl("keep_boxes", _keep_nothing_known, "Meta")


def decode_boxes(
    centres: Float[Tensor, "cell axes"],
    strides: Float[Tensor, "cell axes"],
    distances: Float[Tensor, "batch cell 2 axes"],
) -> Float[Tensor, "batch cell 2 axes"]:
    """Decodes boxes, in voxels, from the distances of their faces from the centres of cells, in strides."""
    signs = fill_numbers((-1.0, 1.0), distances.device, shape=(2, 1))
    return centres[:, None] + signs * distances * strides[:, None]


def compute_offsets(boxes: Boxes, wanted: Boxes) -> Float[Tensor, "*boxes 2 axes"]:
    """Computes what turns boxes into wanted ones (R-CNN, Girshick et al. 2014, arXiv:1311.2524).

    Returns:
        The distances of the centres, in extents of the boxes, then the logarithms of the ratios of the extents, both
        divided by their usual deviations.
    """
    centres, extents = _find_middles(boxes)
    wanted_centres, wanted_extents = _find_middles(wanted)
    shifts = (wanted_centres - centres) / extents / SHIFT_DEVIATION
    return torch.stack((shifts, (wanted_extents / extents).log() / RATIO_DEVIATION), dim=-2)


def apply_offsets(boxes: Boxes, offsets: Float[Tensor, "*others 2 axes"]) -> Float[Tensor, "*others 2 axes"]:
    """Turns boxes into those that `compute_offsets` was given, which are broadcast."""
    centres, extents = _find_middles(boxes)
    centres = centres + offsets[..., 0, :] * SHIFT_DEVIATION * extents
    extents = extents * (offsets[..., 1, :] * RATIO_DEVIATION).clamp(max=LARGEST_RATIO).exp()
    return torch.stack((centres - extents / 2, centres + extents / 2), dim=-2)


def clip_boxes(boxes: Boxes, extents: Sequence[int]) -> Boxes:
    """Cuts boxes to an image."""
    axes = zip(boxes.unbind(dim=-1), extents, strict=True)
    return torch.stack([along.clamp(min=0, max=extent) for along, extent in axes], dim=-1)


def _find_middles(boxes: Boxes) -> tuple[Tensor, Tensor]:
    """Finds centres and extents, of at least a voxel."""
    return boxes.mean(dim=-2), (boxes[..., 1, :] - boxes[..., 0, :]).clamp(min=1)


def list_cells(
    extents: Sequence[int], stride: Sequence[int], device: torch.device
) -> tuple[Float[Tensor, "cell axes"], Float[Tensor, "cell axes"]]:
    """Lists the centres of the cells of a level in voxels, in the order of its features, and their extents."""
    places = [(torch.arange(count, device=device) + 0.5) * step for count, step in zip(extents, stride, strict=True)]
    centres = torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1).flatten(0, -2)
    return centres, fill_numbers([float(step) for step in stride], device).expand_as(centres)


def draw_boxes(
    boxes: Float[Tensor, "batch box 2 axes"], heights: Float[Tensor, "batch box class"], extents: Sequence[int]
) -> Float[Tensor, "batch class *space"]:
    """Draws boxes: every voxel gets the largest height of the boxes that hold it, of each class, or 0.

    A voxel of which a box covers a part along an axis gets that part of its height.

    Args:
        boxes: Their corners are in voxels.
        heights: Numbers of at least 0.
        extents: Voxels of the map.
    """
    *covered, last = (_cover(boxes[..., axis], extent) for axis, extent in enumerate(extents))
    high = heights
    for along in covered:
        high = high[..., None] * along[:, :, *(None,) * (high.ndim - 2)]
    drawn = heights.new_zeros((*heights.shape[::2], *extents))
    for some, along in zip(torch.split(high, BOXES_AT_ONCE, 1), torch.split(last, BOXES_AT_ONCE, 1), strict=True):
        if some.shape[1]:
            inside = some[..., None] * along[:, :, *(None,) * (high.ndim - 2)]
            drawn = torch.maximum(drawn, inside.amax(dim=1))
    return drawn


def _cover(faces: Float[Tensor, "batch box 2"], extent: int) -> Float[Tensor, "batch box voxel"]:
    """Computes the part of every voxel along an axis that lies between two faces."""
    voxels = torch.arange(extent, device=faces.device)
    upper = torch.minimum(faces[..., 1:], voxels + 1)
    return (upper - torch.maximum(faces[..., :1], voxels)).clamp(min=0, max=1)
