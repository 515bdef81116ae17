"""Losses of boxes, scores and distances, each in single or double precision, without sums over cells."""

from collections.abc import Callable, Mapping
from itertools import combinations
from math import pi
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from autoseg.networks.parts.boxes import SMALLEST, compute_unions

BoxLoss = Callable[[Tensor, Tensor], Tensor]
"""Losses of boxes (..., 2, axes), given those that they should be."""


def compute_iou_loss(boxes: Tensor, wanted: Tensor) -> Float[Tensor, " *boxes"]:
    """Computes one minus the intersection over union."""
    return 1 - compute_unions(boxes, wanted)[0]


def compute_giou_loss(boxes: Tensor, wanted: Tensor) -> Float[Tensor, " *boxes"]:
    """Computes one minus the generalized one: less the part of the hull that is in neither (arXiv:1902.09630)."""
    overlaps, unions = compute_unions(boxes, wanted)
    hulls = _compute_hull_extents(boxes, wanted).prod(dim=-1)
    return 1 - overlaps + (hulls - unions) / hulls.clamp(min=SMALLEST)


def compute_diou_loss(boxes: Tensor, wanted: Tensor) -> Float[Tensor, " *boxes"]:
    """Adds the squared distance of the centres by the squared diagonal of the hull (arXiv:1911.08287)."""
    diagonals = _compute_hull_extents(boxes, wanted).square().sum(dim=-1)
    distances = _compute_offsets(boxes, wanted).square().sum(dim=-1)
    return compute_iou_loss(boxes, wanted) + distances / diagonals.clamp(min=SMALLEST)


def compute_ciou_loss(boxes: Tensor, wanted: Tensor) -> Float[Tensor, " *boxes"]:
    """Adds the difference of the aspect ratios to the distance of centres (arXiv:1911.08287).

    In 3D it is the mean over the three pairs of axes.
    """
    angles, wanted_angles = _compute_aspect_angles(boxes), _compute_aspect_angles(wanted)
    ratios = (4 / pi**2) * (angles - wanted_angles).square().mean(dim=-1)
    with torch.no_grad():
        factors = ratios / (compute_iou_loss(boxes, wanted) + ratios).clamp(min=SMALLEST)
    return compute_diou_loss(boxes, wanted) + factors * ratios


def compute_siou_loss(boxes: Tensor, wanted: Tensor) -> Float[Tensor, " *boxes"]:
    """Adds costs of distance and shape, of which that of distance knows the direction (Gevorgyan, arXiv:2205.12740).

    The direction is told by sin(2 a), a the angle between the line of the centres and an axis: 0 along an axis, 1
    between two. In 3D it is the mean over the three pairs of axes.
    """
    offsets, hulls = _compute_offsets(boxes, wanted), _compute_hull_extents(boxes, wanted)
    pairs = list(combinations(range(offsets.shape[-1]), 2))
    first, second = (offsets[..., list(axes)] for axes in zip(*pairs, strict=True))
    sines = 2 * (first * second).abs() / (first.square() + second.square()).clamp(min=SMALLEST)
    exponents = (2 - sines.mean(dim=-1, keepdim=True)) * (offsets / hulls.clamp(min=SMALLEST)).square()
    distance_costs = (1 - torch.exp(-exponents)).sum(dim=-1)
    extents, wanted_extents = _compute_extents(boxes), _compute_extents(wanted)
    larger = torch.maximum(extents, wanted_extents).clamp(min=SMALLEST)
    shape_costs = (1 - torch.exp(-(extents - wanted_extents).abs() / larger)).pow(4).sum(dim=-1)
    return compute_iou_loss(boxes, wanted) + (distance_costs + shape_costs) / 2


BOX_LOSSES: Final[Mapping[str, BoxLoss]] = {
    "iou": compute_iou_loss,
    "giou": compute_giou_loss,
    "diou": compute_diou_loss,
    "ciou": compute_ciou_loss,
    "siou": compute_siou_loss,
}


def compute_varifocal_loss(
    logits: Float[Tensor, "*cells class"],
    qualities: Float[Tensor, "*cells class"],
    *,
    negative_weight: float,
    focusing_power: float,
) -> Float[Tensor, "*cells class"]:
    """Computes cross entropy with qualities, weighted by them where there is an object, else by a power of the score.

    Args:
        logits: Logits of the scores.
        qualities: Wanted scores; 0 without an object.
        negative_weight: Factor without an object.
        focusing_power: Power of the score without an object.
    """
    negative = negative_weight * logits.sigmoid().pow(focusing_power)
    weights = torch.where(qualities > 0, qualities, negative)
    return weights * functional.binary_cross_entropy_with_logits(logits, qualities, reduction="none")


def compute_distribution_loss(
    bins: Float[Tensor, "*distances bin"], distances: Float[Tensor, " *distances"]
) -> Float[Tensor, " *distances"]:
    """Computes the cross entropy of the two bins on either side of a distance, weighted by how near they are.

    Args:
        bins: Logits of the whole numbers 0, 1, ...
        distances: Wanted ones; those beyond the last bin count as it.
    """
    last = bins.shape[-1] - 1
    distances = distances.clamp(min=0, max=last)
    below = distances.floor().clamp(max=last - 1)
    share: Tensor = distances - below
    entropies = -bins.log_softmax(dim=-1)
    return (1 - share) * _take(entropies, below.long()) + share * _take(entropies, below.long() + 1)


def _take(values: Tensor, places: Int[Tensor, " *distances"]) -> Tensor:
    return values.gather(-1, places[..., None])[..., 0]


def _compute_extents(boxes: Tensor) -> Tensor:
    return boxes[..., 1, :] - boxes[..., 0, :]


def _compute_offsets(boxes: Tensor, wanted: Tensor) -> Tensor:
    return wanted.mean(dim=-2) - boxes.mean(dim=-2)


def _compute_hull_extents(boxes: Tensor, wanted: Tensor) -> Tensor:
    lower = torch.minimum(boxes[..., 0, :], wanted[..., 0, :])
    return torch.maximum(boxes[..., 1, :], wanted[..., 1, :]) - lower


def _compute_aspect_angles(boxes: Tensor) -> Tensor:
    extents = _compute_extents(boxes).clamp(min=SMALLEST)
    pairs = list(combinations(range(extents.shape[-1]), 2))
    return torch.stack([torch.atan(extents[..., first] / extents[..., second]) for first, second in pairs], dim=-1)
