"""The choice of boxes: proposals of the highest scores, training regions, and the objects that are drawn."""

from dataclasses import dataclass
from math import log
from typing import Final

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from autoseg.networks.parts.boxes import apply_offsets, clip_boxes, compute_pairwise_overlaps, suppress_boxes
from autoseg.plan.network.mask_rcnn import MaskRcnnPlan

CANDIDATES_PER_BOX: Final = 2
"""Boxes among which so many are chosen that do not overlap, as in the published training (2,000 for 1,000)."""
LEAST_PROPOSAL: Final = 0.05
"""Score of a proposal from which on it may be foreground (guess: lower ones are hardly ever objects)."""
NEVER: Final = -1e4
"""Score of boxes that are not drawn."""
POSITIVE_OVERLAP: Final = 0.5
"""Intersection over union with an object from which on a region has it, as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """Boxes that may hold objects.

    Attributes:
        boxes: Corners in voxels.
        scores: Logits.
        is_kept: Those that overlap no better one; the others only fill the batch up.
    """

    boxes: Float[Tensor, "batch box 2 axes"]
    scores: Float[Tensor, "batch box"]
    is_kept: Bool[Tensor, "batch box"]

    def limit(self, scores: Float[Tensor, "batch box class"]) -> Float[Tensor, "batch box class"]:
        """Limits the logits of classes by those of the proposals."""
        limited = torch.minimum(scores, (self.scores - compute_logit(LEAST_PROPOSAL))[..., None])
        return torch.where(self.is_kept[..., None], limited, NEVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRegions:
    """Regions that training compares with objects, first those that may have one.

    Attributes:
        boxes: Corners in voxels.
        objects: The object that each overlaps most.
        is_positive: Whether it has that object.
        is_compared: Whether it counts: it has an object, or was chosen as one without.
    """

    boxes: Float[Tensor, "batch region 2 axes"]
    objects: Int[Tensor, "batch region"]
    is_positive: Bool[Tensor, "batch region"]
    is_compared: Bool[Tensor, "batch region"]


ClassifiedBoxes = tuple[Float[Tensor, "batch some 2 axes"], Float[Tensor, "batch some"], Int[Tensor, "batch some"]]
"""Boxes, their scores, the highest first (`NEVER` where a better box overlaps them), and their classes."""


def propose(
    scores: Float[Tensor, "batch cell"],
    boxes: Float[Tensor, "batch cell 2 axes"],
    *,
    count: int,
    largest_overlap: float,
) -> Proposals:
    """Chooses the boxes of the highest scores that do not overlap."""
    places, is_kept = choose_apart(scores, boxes, count=count, largest_overlap=largest_overlap)
    return Proposals(boxes=pick(boxes, places), scores=pick(scores, places), is_kept=is_kept)


def classify(
    plan: MaskRcnnPlan,
    proposals: Proposals,
    logits: Float[Tensor, "batch box label"],
    offsets: Float[Tensor, "batch box class 2 axes"],
    *,
    extents: torch.Size,
    count: int,
) -> ClassifiedBoxes:
    """Chooses the classes and boxes of the highest scores that do not overlap, whatever their classes.

    A box is as sure as the less sure one of its proposal and its class.

    Args:
        plan: Plan of the network.
        proposals: The boxes that were looked at.
        logits: Logits of their classes, background first.
        offsets: Corrections of their boxes, for every class.
        extents: Voxels of the image.
        count: Number of boxes.
    """
    scores = proposals.limit(compare_classes(logits)).flatten(1)
    boxes = clip_boxes(apply_offsets(proposals.boxes[:, :, None], offsets), extents).flatten(1, 2)
    places, is_kept = choose_apart(scores, boxes, count=count, largest_overlap=plan.largest_overlap)
    return pick(boxes, places), torch.where(is_kept, pick(scores, places), NEVER), places % plan.class_count


def choose_apart(
    scores: Float[Tensor, "batch box"], boxes: Float[Tensor, "batch box 2 axes"], *, count: int, largest_overlap: float
) -> tuple[Int[Tensor, "batch some"], Bool[Tensor, "batch some"]]:
    """Chooses the boxes of the highest scores that do not overlap; where these are too few, others fill up.

    Returns:
        The indices of the boxes, and which of them overlap none of a higher score.
    """
    some = min(CANDIDATES_PER_BOX * count, scores.shape[1])
    places = scores.topk(some, dim=1).indices
    is_kept = suppress_boxes(pick(boxes.detach(), places), largest_overlap)
    order = (~is_kept).long().sort(dim=1, stable=True).indices[:, : min(count, some)]
    return pick(places, order), pick(is_kept, order)


def compare_classes(logits: Float[Tensor, "batch box label"]) -> Float[Tensor, "batch box class"]:
    """Computes the logit of every class against all others and background together."""
    count = logits.shape[-1]
    own = torch.eye(count, dtype=torch.bool, device=logits.device)[1:]
    others = torch.where(own, -torch.inf, logits[..., None, :]).logsumexp(dim=-1)
    return logits[..., 1:] - others


def compute_logit(probability: float) -> float:
    """Computes the logit of a probability."""
    return log(probability / (1 - probability))


def choose_training_regions(
    plan: MaskRcnnPlan,
    proposals: Proposals,
    objects: Float[Tensor, "batch object 2 axes"],
    *,
    is_object: Bool[Tensor, "batch object"],
    order: Float[Tensor, "batch any"],
) -> TrainingRegions:
    """Chooses the regions that training compares, from proposals and from the boxes of the objects themselves.

    Args:
        plan: Plan of the network, with the numbers of regions.
        proposals: Boxes that may hold objects.
        objects: Boxes of the objects.
        is_object: Objects that exist; others only fill the batch up.
        order: Numbers from 0 to 1 for every proposal and object: the largest are chosen.
    """
    boxes = torch.cat((proposals.boxes.detach(), objects), dim=1)
    is_box = torch.cat((proposals.is_kept, is_object), dim=1)
    order = order[:, : boxes.shape[1]]
    overlaps, own = torch.where(is_object[:, None], compute_pairwise_overlaps(boxes, objects), 0.0).max(dim=-1)
    has_object = is_box & (overlaps >= POSITIVE_OVERLAP)
    negatives = plan.training_regions - plan.positive_regions
    first = _choose(has_object, order, plan.positive_regions)
    second = _choose(is_box & ~has_object, order, negatives)
    places = torch.cat((first, second), dim=1)
    is_positive = pick(has_object, places) & (torch.arange(places.shape[1], device=places.device) < first.shape[1])
    is_negative = pick(is_box & ~has_object, places)
    is_negative &= torch.arange(places.shape[1], device=places.device) >= first.shape[1]
    return TrainingRegions(
        boxes=pick(boxes, places),
        objects=pick(own, places),
        is_positive=is_positive,
        is_compared=is_positive | is_negative,
    )


def _choose(is_wanted: Tensor, order: Tensor, count: int) -> Tensor:
    """Chooses wanted boxes of the highest numbers, then others."""
    return torch.where(is_wanted, 1 + order, order).topk(min(count, order.shape[1]), dim=1).indices


def pick(
    values: Shaped[Tensor, "batch own *rest"], places: Int[Tensor, "batch some"]
) -> Shaped[Tensor, "batch some *rest"]:
    """Picks entries of every sample."""
    index = places.reshape(*places.shape, *(1,) * (values.ndim - 2)).expand(*places.shape, *values.shape[2:])
    return values.gather(1, index)


def take_class(
    values: Shaped[Tensor, "batch box class *rest"], classes: Int[Tensor, "batch box"]
) -> Shaped[Tensor, "batch box *rest"]:
    """Takes the values of the class of every box."""
    index = classes.reshape(*classes.shape, *(1,) * (values.ndim - 2)).expand(-1, -1, 1, *values.shape[3:])
    return values.gather(2, index)[:, :, 0]
