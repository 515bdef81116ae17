"""Objects as a map: cores and borders of masks, of which the surer one has a voxel."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

BACKGROUND_LOGIT: Final = -4.0
"""Lowest logit of an object. The logits of mirrored views, windows and folds are averaged: a voxel that only some of
them give to an object is foreground if these are sure enough (guess: a probability of 0.02)."""
CORE_SHARE: Final = 0.95
"""Share of the core in the probability of a class inside the core, and of the border outside of it (guess)."""
BOXES_AT_ONCE: Final = 8
"""Objects that are drawn in one step, each into an array of the size of the map."""


def draw_objects(
    masks: Float[Tensor, "batch object ..."],
    boxes: Float[Tensor, "batch object 2 axes"],
    scores: Float[Tensor, "batch object"],
    classes: Int[Tensor, "batch object"],
    *,
    extents: Sequence[int],
    class_count: int,
    border_fraction: float,
) -> Float[Tensor, "batch output *space"]:
    """Draws objects into logits of background, of the cores of all classes, and of their borders.

    A voxel belongs to the object of the highest score whose mask holds it; it is as sure as the less sure one of score
    and mask. Voxels that touch another object are border, unless none of its own would be core.

    Args:
        masks: Logits of masks, in the boxes.
        boxes: Corners in voxels.
        scores: Logits of the objects, above 0 where they are foreground; the highest first.
        classes: Classes of the objects.
        extents: Voxels of the map.
        class_count: Number of classes.
        border_fraction: Width of the border as a fraction of the depth of a mask.
    """
    cores = erode_masks(masks, border_fraction)
    drawn = torch.full((masks.shape[0], 1, *extents), BACKGROUND_LOGIT, device=masks.device)
    rank, core, owner = drawn, drawn, torch.zeros_like(drawn, dtype=torch.long)
    count = masks.shape[1]
    for first in range(0, count, BOXES_AT_ONCE):
        some = slice(first, first + BOXES_AT_ONCE)
        height, inner = paste(torch.stack((masks[:, some], cores[:, some])), boxes[:, some], extents).unbind()
        height = torch.minimum(height, scores[:, some].reshape(scores.shape[0], -1, *(1,) * len(extents)))
        height = height.clamp(min=BACKGROUND_LOGIT)
        numbers = torch.arange(first + 1, first + 1 + height.shape[1], device=height.device)
        places = numbers.reshape(-1, *(1,) * len(extents))
        ranks = torch.where(height > 0, 1 + count - places, height)
        best, chosen = torch.cat((rank, ranks), dim=1).max(dim=1, keepdim=True)
        owner = torch.cat((owner, places.expand(height.shape)), dim=1).gather(1, chosen)
        drawn = torch.cat((drawn, height), dim=1).gather(1, chosen)
        core = torch.cat((core, inner), dim=1).gather(1, chosen)
        rank = best
    is_core = part_cores(core > 0, owner * (drawn > 0), count)
    own = functional.pad(classes, (1, 0)).gather(1, owner.flatten(1)).reshape(owner.shape)
    return divide(drawn, is_core, own, class_count)


def divide(
    heights: Float[Tensor, "batch 1 *space"],
    is_core: Bool[Tensor, "batch 1 *space"],
    classes: Int[Tensor, "batch 1 *space"],
    class_count: int,
) -> Float[Tensor, "batch output *space"]:
    """Divides the logit of a class, against that of background, 0, between its core and its border."""
    high, low = (heights.new_full((), share).log() for share in (CORE_SHARE, 1 - CORE_SHARE))
    rows = torch.arange(class_count, device=heights.device).reshape(-1, *(1,) * (heights.ndim - 2))
    own = torch.where(classes == rows, heights, BACKGROUND_LOGIT)
    cores, borders = own + torch.where(is_core, high, low), own + torch.where(is_core, low, high)
    return torch.cat((torch.zeros_like(heights), cores, borders), dim=1)


def erode_masks(
    masks: Float[Tensor, "batch object *bins"], border_fraction: float
) -> Float[Tensor, "batch object *bins"]:
    """Erodes masks by a fraction of their depth, in voxels of the mask, so that something remains of each.

    The depth is the number of erosions by one voxel after which something is left. Outside of its box nothing belongs
    to an object.
    """
    pool = functional.max_pool2d if masks.ndim == 4 else functional.max_pool3d
    eroded = [masks]
    for _ in range(max(masks.shape[2:]) // 2):
        around = functional.pad(-eroded[-1], (1, 1) * (masks.ndim - 2), value=-BACKGROUND_LOGIT)
        eroded.append(-pool(around, 3, stride=1))
    steps = torch.stack(eroded, dim=2)
    depths = (steps.flatten(3).amax(dim=-1) > 0).sum(dim=-1, keepdim=True)
    wanted = torch.minimum((border_fraction * depths).ceil().long(), (depths - 1).clamp(min=0))
    index = wanted.reshape(*wanted.shape, *(1,) * (masks.ndim - 2)).expand(-1, -1, -1, *masks.shape[2:])
    return steps.gather(2, index)[:, :, 0]


def paste(
    masks: Float[Tensor, "kind batch object *bins"], boxes: Float[Tensor, "batch object 2 axes"], extents: Sequence[int]
) -> Float[Tensor, "kind batch object *space"]:
    """Interpolates masks linearly at the centres of the voxels of a map; outside of their boxes they are background."""
    pasted, inside = masks, torch.ones((), device=masks.device)
    for axis, extent in enumerate(extents):
        lower, upper = boxes[..., 0, axis, None], boxes[..., 1, axis, None]
        centres = torch.arange(extent, device=masks.device) + 0.5
        bins = masks.shape[3 + axis]
        places = (centres - lower) / (upper - lower).clamp(min=1) * bins - 0.5
        steps = torch.arange(bins, device=masks.device)
        weights = (1 - (places.clamp(0, bins - 1)[..., None] - steps).abs()).clamp(min=0)
        pasted = _interpolate(pasted, weights, axis)
        is_inside = (centres >= lower) & (centres <= upper)
        inside = inside[..., None] * is_inside.reshape(*boxes.shape[:2], *(1,) * axis, extent)
    return torch.where(inside > 0, pasted, BACKGROUND_LOGIT)


def _interpolate(values: Tensor, weights: Float[Tensor, "batch object voxel bin"], axis: int) -> Tensor:
    """Interpolates along one axis."""
    last = values.movedim(3 + axis, -1)
    spread = weights.reshape(*weights.shape[:2], *(1,) * (last.ndim - 5), *weights.shape[2:])
    return (last @ spread.mT).movedim(-1, 3 + axis)


def part_cores(
    is_core: Bool[Tensor, "batch 1 *space"], owner: Int[Tensor, "batch 1 *space"], count: int
) -> Bool[Tensor, "batch 1 *space"]:
    """Takes from cores the voxels that touch another object, but from no object all of them."""
    parted = is_core & ~find_contacts(owner)
    has_core = [torch.zeros_like(parted.flatten(2)[..., 0])]  # of no object, whose number is 0
    for first in range(1, 1 + count, BOXES_AT_ONCE):
        numbers = torch.arange(first, min(first + BOXES_AT_ONCE, 1 + count), device=owner.device)
        own = (owner == numbers.reshape(-1, *(1,) * (owner.ndim - 2))) & parted
        has_core.append(own.flatten(2).any(dim=-1))
    keeps_some = torch.cat(has_core, dim=1).gather(1, owner.flatten(1)).reshape(owner.shape)
    return parted | (is_core & ~keeps_some)


def find_contacts(owner: Int[Tensor, "batch 1 *space"]) -> Bool[Tensor, "batch 1 *space"]:
    """Finds the voxels of objects that have a neighbour of another object; 0 is none."""
    pool = functional.max_pool2d if owner.ndim == 4 else functional.max_pool3d
    numbers = owner.float()
    highest = pool(numbers, 3, stride=1, padding=1)
    lowest = -pool(torch.where(numbers > 0, -numbers, -torch.inf), 3, stride=1, padding=1)
    return (numbers > 0) & ((highest != numbers) | (lowest != numbers))
