"""Task-aligned assignment of the cells of a detector to objects (Feng et al. 2021, arXiv:2108.07755)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autoseg.networks.parts.boxes import SMALLEST, compute_pairwise_overlaps
from autoseg.plan.objectives import DetectionObjective, MaskRcnnObjective
from autoseg.training.objectives.box_targets import BoxTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAssignment:
    """The objects of the cells of a sample.

    Attributes:
        objects: Index of the object of every cell; 0 where there is none.
        qualities: Wanted score of the object's classes; 0 where there is none.
    """

    objects: Int[Tensor, " cell"]
    qualities: Float[Tensor, " cell"]


@torch.no_grad()
def assign_cells(
    plan: DetectionObjective | MaskRcnnObjective,
    targets: BoxTargets,
    *,
    scores: Float[Tensor, "cell class"],
    boxes: Float[Tensor, "cell 2 axes"],
    centres: Float[Tensor, "cell axes"],
    is_usable: Bool[Tensor, " cell"],
) -> CellAssignment:
    """Assigns to every object the cells in its box whose score and box fit it best.

    A cell of several objects goes to the one that its box overlaps most. The wanted score of the best cell of an object
    is the largest overlap of its cells; those of its others are in proportion to how well they fit.

    Args:
        plan: Powers and number of cells.
        targets: The objects.
        scores: Probabilities.
        boxes: Corners in voxels, as the centres.
        centres: Centres of the cells.
        is_usable: Cells that may be assigned.
    """
    if not len(targets):
        return CellAssignment(
            objects=torch.zeros(len(centres), dtype=torch.long, device=centres.device),
            qualities=scores.new_zeros(len(centres)),
        )
    overlaps = compute_pairwise_overlaps(targets.boxes, boxes)
    fitting = (scores[None] * targets.classes[:, None]).amax(dim=-1)
    alignment = fitting.pow(plan.score_power) * overlaps.pow(plan.overlap_power)
    candidates = find_candidates(targets.boxes, centres, is_usable)
    count = min(plan.cells_per_object, len(centres))
    best = torch.where(candidates, alignment, -1.0).topk(count, dim=1).indices
    chosen = torch.zeros_like(candidates).scatter_(1, best, value=True) & candidates
    objects = torch.where(chosen, overlaps, -1.0).argmax(dim=0)
    rows = torch.arange(len(targets), device=objects.device)[:, None]
    chosen &= rows == objects
    fit, overlap = alignment * chosen, (overlaps * chosen).amax(dim=1, keepdim=True)
    qualities = fit / fit.amax(dim=1, keepdim=True).clamp(min=SMALLEST) * overlap
    return CellAssignment(objects=objects, qualities=qualities.amax(dim=0))


def find_candidates(
    boxes: Float[Tensor, "object 2 axes"], centres: Float[Tensor, "cell axes"], is_usable: Bool[Tensor, " cell"]
) -> Bool[Tensor, "object cell"]:
    """Finds the usable cells whose centre lies in the box of an object; for a box without any, the nearest one."""
    inside = (centres > boxes[:, None, 0]) & (centres < boxes[:, None, 1])
    found = inside.all(dim=-1) & is_usable
    distances = (boxes.mean(dim=1)[:, None] - centres).square().sum(dim=-1)
    nearest = torch.where(is_usable, distances, torch.inf).argmin(dim=1, keepdim=True)
    alone = torch.zeros_like(found).scatter_(1, nearest, value=True)
    return torch.where(found.any(dim=1, keepdim=True), found, alone & is_usable)
