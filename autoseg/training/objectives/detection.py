"""Training of a detector: scores, boxes and distances of cells against the boxes of objects (arXiv:2209.02976)."""

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.objectives import DetectionObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.runtime.streams import fill_numbers
from autoseg.training.data.batch import Batch
from autoseg.training.objectives.box_targets import BoxTargets, find_box_targets, find_usable_cells
from autoseg.training.objectives.detection_losses import (
    BOX_LOSSES,
    compute_distribution_loss,
    compute_varifocal_loss,
)
from autoseg.training.objectives.distillation import compare_distributions, compare_scores
from autoseg.training.objectives.objective import NetworkCall, Objective
from autoseg.training.objectives.task_alignment import assign_cells

TEACHER_TEMPERATURE: Final = 20.0
"""Logits of a teacher are divided by it (YOLOv6)."""


class Detection(Objective):
    """The varifocal loss of all cells, and the losses of the boxes and distances of those that have an object.

    Each is a sum, divided by the sum of the wanted scores over the batch. Cells in ignored voxels do not count.
    """

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del network, seed
        assert isinstance(plan.training.objective, DetectionObjective), "the table of objectives says so"
        self.plan, self.labels, self.part = plan.training.objective, labels, part
        self.spacing_mm = plan.spacing_mm
        self.margins_voxels = tuple(self.plan.dilation_mm / spacing for spacing in plan.spacing_mm)

    def find_capture_problem(self) -> str | None:
        """Finds that objects are found on the CPU."""
        return "the objects of a detection are found on the CPU"

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once."""
        targets = self._find_targets(batch.label_map)  # before the network, which would be waited for, too
        logits, *cells, centres, strides = network(batch.image, True)
        usable = find_usable_cells(batch.label_map, centres, self.labels)
        sums = [
            self._add_losses(known, centres, strides, own, is_usable=is_usable)
            for known, is_usable, *own in zip(targets, usable, *cells, strict=True)
        ]
        loss, wanted = (self.part.add_up(torch.stack(parts).sum()) for parts in zip(*sums, strict=True))
        return loss / wanted.clamp(min=1), logits

    def _find_targets(self, label_map: Tensor) -> list[BoxTargets]:
        """Finds the boxes of every sample; the label map is copied to the CPU once."""
        device = label_map.device
        return [
            find_box_targets(sample, self.labels, margins_voxels=self.margins_voxels, device=device)
            for sample in label_map.cpu()
        ]

    def compare_with_teacher(self, found: tuple[Tensor, ...], taught: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Computes the divergence of the scores of all cells and, by the teacher's score, of the bins of distances.

        Both have the weights that they have without a teacher, and the sum is divided by that of the teacher's scores.
        """
        (scores, bins, _, centres, _), (wanted, wanted_bins) = found[1:], taught[1:3]
        usable = find_usable_cells(batch.label_map, centres, self.labels)
        certainty = wanted.sigmoid().amax(dim=-1) * usable
        differences = compare_scores(scores, wanted, TEACHER_TEMPERATURE).sum(dim=-1)
        loss = self.plan.class_weight * (differences * usable).sum()
        if self.plan.bin_weight > 0:
            distances = compare_distributions(bins, wanted_bins, TEACHER_TEMPERATURE).mean(dim=(-2, -1))
            loss = loss + self.plan.bin_weight * (distances * certainty).sum()
        return self.part.add_up(loss) / self.part.add_up(certainty.sum()).clamp(min=1)

    def _add_losses(
        self,
        targets: BoxTargets,
        centres: Tensor,
        strides: Tensor,
        cells: list[Tensor],
        *,
        is_usable: Bool[Tensor, " cell"],
    ) -> tuple[Tensor, Tensor]:
        """Computes the sums of the losses and of the wanted scores of a sample."""
        scores, bins, boxes = cells
        assigned = assign_cells(
            self.plan,
            targets,
            scores=scores.detach().sigmoid(),
            boxes=boxes.detach(),
            centres=centres,
            is_usable=is_usable,
        )
        qualities, wanted = torch.zeros_like(scores), boxes.detach()
        if len(targets):
            qualities = assigned.qualities[:, None] * targets.classes[assigned.objects]
            wanted = targets.boxes[assigned.objects]
        varifocal = compute_varifocal_loss(
            scores, qualities, negative_weight=self.plan.negative_weight, focusing_power=self.plan.focusing_power
        )
        loss = self.plan.class_weight * torch.where(is_usable[:, None], varifocal, 0.0).sum()
        loss = loss + (assigned.qualities * self._compare(bins, boxes, wanted, centres, strides)).sum()
        return loss, assigned.qualities.sum()

    def _compare(self, bins: Tensor, boxes: Tensor, wanted: Tensor, *cells: Tensor) -> Float[Tensor, " cell"]:
        """Computes the losses of the boxes of cells, and of their distances."""
        spacing_mm = fill_numbers(self.spacing_mm, boxes.device, dtype=boxes.dtype)
        loss = self.plan.box_weight * BOX_LOSSES[self.plan.box_loss](boxes * spacing_mm, wanted * spacing_mm)
        if self.plan.bin_weight == 0:
            return loss
        centres, strides = (values[:, None] for values in cells)
        signs = fill_numbers((-1.0, 1.0), boxes.device, shape=(2, 1), dtype=boxes.dtype)
        distances = compute_distribution_loss(bins, signs * (wanted - centres) / strides)
        return loss + self.plan.bin_weight * distances.mean(dim=(-2, -1))
