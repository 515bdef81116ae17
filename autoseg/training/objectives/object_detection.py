"""Training of Mask R-CNN: proposals, and class, box and mask of regions (He et al. 2017, arXiv:1703.06870)."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.boxes import compute_offsets
from autoseg.networks.parts.regions.alignment import sample_objects
from autoseg.networks.parts.regions.selection import TrainingRegions, pick, take_class
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network import MaskRcnnPlan
from autoseg.plan.objectives import MaskRcnnObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.runtime.streams import copy_to_device, fill_numbers
from autoseg.training.data.batch import Batch
from autoseg.training.objectives.box_targets import BoxTargets
from autoseg.training.objectives.detection_losses import BOX_LOSSES, compute_varifocal_loss
from autoseg.training.objectives.object_targets import IGNORED, MOST_OBJECTS, ObjectTargets, find_object_targets
from autoseg.training.objectives.objective import NetworkCall, Objective
from autoseg.training.objectives.task_alignment import assign_cells

VALIDATION_SEED: Final = 0
SMOOTH_DISTANCE: Final = 1.0 / 9
"""Distance from which on the loss of offsets is linear, as published."""
IGNORED_BINS: Final = 4
"""Bins along each axis of a region in which ignored voxels are looked for."""
LARGEST_IGNORED: Final = 0.5
"""Share of a region, or of a bin of a mask, from which on it does not count (guess)."""

Sums = tuple[Tensor, Tensor]
"""Sum of a loss, and what it is divided by."""


class ObjectDetection(Objective):
    """The losses of proposals, as those of a detector, and of classes, boxes and masks of regions.

    Each is a sum over the batch, divided by the wanted scores of proposals, the regions, or the voxels of masks.
    """

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del network, seed
        assert isinstance(plan.training.objective, MaskRcnnObjective), "the table of objectives says so"
        assert isinstance(plan.network, MaskRcnnPlan), "plans are checked"
        self.plan, self.network, self.labels, self.part = plan.training.objective, plan.network, labels, part
        self.spacing_mm = plan.patch_spacing_mm[-plan.dimensions :]

    def find_capture_problem(self) -> str | None:
        """Finds that objects are found on the CPU."""
        return "the objects of Mask R-CNN are found on the CPU"

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once."""
        targets = find_object_targets(batch.label_map, self.labels, self.spacing_mm)
        found = network(batch.image, targets.boxes, targets.is_object, self._draw(batch.label_map))
        logits, scores, boxes, centres, *others, classes, offsets, masks = found
        usable = find_counted_cells(targets.numbers, centres)
        proposals = self._compare_proposals(targets, scores, boxes, centres, is_usable=usable)
        regions = TrainingRegions(boxes=others[0], objects=others[1], is_positive=others[2], is_compared=others[3])
        sums = (proposals, *self._compare_regions(targets, regions, classes, offsets, masks=masks))
        weights = (1.0, self.plan.class_weight, self.plan.offset_weight, self.plan.mask_weight)
        loss = torch.zeros((), device=logits.device)
        for weight, (total, count) in zip(weights, sums, strict=True):
            loss = loss + weight * self.part.add_up(total) / self.part.add_up(count).clamp(min=1)
        return loss, logits

    def _draw(self, label_map: Tensor) -> Tensor:
        """Draws the order of regions: in training anew in every iteration, in validation always the same."""
        generator = None if self.training else torch.Generator().manual_seed(VALIDATION_SEED)
        count = self.network.proposals + MOST_OBJECTS
        order = self.part.draw(lambda whole: torch.rand((whole, count), generator=generator), len(label_map))
        return copy_to_device(order, label_map.device)

    def _compare_proposals(
        self, targets: ObjectTargets, scores: Tensor, boxes: Tensor, centres: Tensor, *, is_usable: Tensor
    ) -> Sums:
        sums = [
            self._compare_cells(
                targets.list_boxes(sample),
                scores[sample][:, None],
                boxes[sample],
                centres,
                is_usable=is_usable[sample],
            )
            for sample in range(len(scores))
        ]
        loss, wanted = (torch.stack(parts).sum() for parts in zip(*sums, strict=True))
        return loss, wanted

    def _compare_cells(
        self, objects: Tensor, scores: Tensor, boxes: Tensor, centres: Tensor, *, is_usable: Tensor
    ) -> Sums:
        """Compares the cells of a sample with the objects that they are assigned to."""
        known = BoxTargets(boxes=objects, classes=torch.ones_like(objects[:, 0, :1], dtype=torch.bool))
        assigned = assign_cells(
            self.plan,
            known,
            scores=scores.detach().sigmoid(),
            boxes=boxes.detach(),
            centres=centres,
            is_usable=is_usable,
        )
        wanted = objects[assigned.objects] if len(objects) else boxes.detach()
        varifocal = compute_varifocal_loss(
            scores,
            assigned.qualities[:, None],
            negative_weight=self.plan.negative_weight,
            focusing_power=self.plan.focusing_power,
        )
        spacing_mm = fill_numbers(self.spacing_mm, boxes.device, dtype=boxes.dtype)
        of_boxes = BOX_LOSSES[self.plan.box_loss](boxes * spacing_mm, wanted * spacing_mm)
        loss = (
            torch.where(is_usable[:, None], varifocal, 0.0).sum()
            + self.plan.box_weight * (assigned.qualities * of_boxes).sum()
        )
        return loss, assigned.qualities.sum()

    def _compare_regions(
        self, targets: ObjectTargets, regions: TrainingRegions, classes: Tensor, offsets: Tensor, *, masks: Tensor
    ) -> tuple[Sums, Sums, Sums]:
        """Compares classes, boxes and masks of regions."""
        boxes, objects, is_positive = regions.boxes, regions.objects, regions.is_positive
        kinds = pick(targets.classes, objects)
        is_compared = regions.is_compared & (is_positive | ~find_ignored(targets.numbers, boxes))
        count = is_compared.sum()
        entropy = compare_labels(classes, kinds, is_positive=is_positive, is_compared=is_compared)
        wanted = compute_offsets(boxes, pick(targets.boxes, objects))
        distance = compare_offsets(offsets, kinds, wanted, is_positive=is_positive)
        of_masks = compare_masks(
            masks.flatten(3), kinds[:, : masks.shape[1]], *self._cut_masks(targets, regions, masks.shape[1:4:2])
        )
        return (entropy, count), (distance, count), of_masks

    def _cut_masks(
        self, targets: ObjectTargets, regions: TrainingRegions, shape: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Cuts the masks of the objects of the first regions, and tells which of their voxels count."""
        some, bins = slice(shape[0]), shape[1]
        objects, boxes = regions.objects[:, some], regions.boxes[:, some]
        wanted, ignored = (
            sample_objects(targets.numbers, numbers, boxes, bins=bins)
            for numbers in (objects + 1, torch.full_like(objects, IGNORED))
        )
        return wanted, regions.is_positive[:, some, None] & (ignored < LARGEST_IGNORED)


def find_counted_cells(
    numbers: Int[Tensor, " batch *space"], centres: Float[Tensor, "cell axes"]
) -> Bool[Tensor, "batch cell"]:
    """Finds the cells whose centre lies in background or in an object that is kept."""
    is_usable: Tensor = numbers[(slice(None), *centres.long().unbind(dim=-1))] != IGNORED  # type: ignore[index]
    return is_usable


def find_ignored(
    numbers: Int[Tensor, " batch *space"], boxes: Float[Tensor, "batch region 2 axes"]
) -> Bool[Tensor, "batch region"]:
    """Finds the regions of which more than a half is neither background nor an object."""
    rows = torch.full(boxes.shape[:2], IGNORED, device=boxes.device)
    return sample_objects(numbers, rows, boxes, bins=IGNORED_BINS).mean(dim=-1) > LARGEST_IGNORED


def compare_labels(
    logits: Float[Tensor, "batch region label"],
    kinds: Int[Tensor, "batch region"],
    *,
    is_positive: Bool[Tensor, "batch region"],
    is_compared: Bool[Tensor, "batch region"],
) -> Tensor:
    """Adds up the cross entropy of the classes of regions; without an object they are background."""
    wanted = torch.where(is_positive, kinds + 1, 0)
    entropy = functional.cross_entropy(logits.mT, wanted, reduction="none")
    return (entropy * is_compared).sum()


def compare_offsets(
    offsets: Float[Tensor, "batch region class 2 axes"],
    kinds: Int[Tensor, "batch region"],
    wanted: Float[Tensor, "batch region 2 axes"],
    *,
    is_positive: Bool[Tensor, "batch region"],
) -> Tensor:
    """Adds up the smooth absolute differences of the offsets of the true classes, of regions that have an object."""
    own = take_class(offsets, kinds)
    loss = functional.smooth_l1_loss(own, wanted, beta=SMOOTH_DISTANCE, reduction="none").flatten(2).sum(dim=-1)
    return (loss * is_positive).sum()


def compare_masks(
    logits: Float[Tensor, "batch region class voxel"],
    kinds: Int[Tensor, "batch region"],
    wanted: Float[Tensor, "batch region voxel"],
    is_counted: Bool[Tensor, "batch region voxel"],
) -> Sums:
    """Adds up the binary cross entropy of the masks of the true classes, and the voxels that count."""
    own = take_class(logits, kinds)
    entropy = functional.binary_cross_entropy_with_logits(own, wanted, reduction="none")
    return (entropy * is_counted).sum(), is_counted.sum()
