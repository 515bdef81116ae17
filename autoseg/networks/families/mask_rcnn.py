"""Mask R-CNN (He et al. 2017, arXiv:1703.06870), whose objects are drawn into a map of cores and borders."""

from math import prod
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.boxes import clip_boxes, decode_boxes, list_cells
from autoseg.networks.parts.encoders import build_encoder
from autoseg.networks.parts.regions.alignment import align_regions
from autoseg.networks.parts.regions.drawing import BACKGROUND_LOGIT, divide, draw_objects
from autoseg.networks.parts.regions.heads import BoxHead, MaskHead, ProposalHead
from autoseg.networks.parts.regions.pyramid import FeaturePyramid
from autoseg.networks.parts.regions.selection import (
    Proposals,
    choose_training_regions,
    classify,
    compute_logit,
    propose,
    take_class,
)
from autoseg.plan.network.mask_rcnn import MaskRcnnPlan

SINGLE: Final = (
    *("proposals.scores", "proposals.distances"),
    *("boxes.first", "boxes.second", "boxes.scores", "boxes.offsets", "masks.logits"),
)


class MaskRcnn(SegmentationNetwork):
    """An encoder, a pyramid of its last stages, proposals of every cell, and class, box and mask of the best ones.

    In training mode `forward` looks at as many regions as a training step does, so that what is measured is its cost.
    """

    plan: MaskRcnnPlan

    def __init__(self, plan: MaskRcnnPlan) -> None:
        super().__init__(plan)
        self.encoder = build_encoder(plan)
        self.pyramid = FeaturePyramid(plan, self.encoder.channels[-plan.levels :])
        self.proposals = ProposalHead(plan)
        self.boxes = BoxHead(plan)
        self.masks = MaskHead(plan)
        stages = range(plan.stage_count - plan.levels, plan.stage_count)
        self.strides = [
            tuple(prod(steps) for steps in zip(*plan.strides[: stage + 1], strict=True)) for stage in stages
        ]

    def forward(
        self,
        image: Float[Tensor, "batch channel *space"],
        objects: Float[Tensor, "batch object 2 axes"] | None = None,
        is_object: Bool[Tensor, "batch object"] | None = None,
        order: Float[Tensor, "batch any"] | None = None,
    ) -> tuple[Tensor, ...]:
        """Computes logits, in which objects are drawn.

        Args:
            image: Its extents are multiples of `NetworkPlan.patch_divisors`.
            objects: Boxes of objects, of which training regions are to find one.
            is_object: Objects that exist; the others only fill the batch up.
            order: Numbers by which training regions are drawn (`choose_training_regions`).

        Returns:
            The logits. With objects, no gradient flows to these, and in training mode, in which nobody looks at them,
            no object is drawn; further, what training compares: the scores, boxes and centres of all cells;
            the boxes of the training regions, their objects, and whether they have it and count; the logits of their
            classes, and their offsets; and the logits of the masks of the first ones.
        """
        levels = self._compute_levels(image)
        scores, boxes, centres = self._find_boxes(image, levels)
        count = self.plan.training_regions if self.training and objects is None else self.plan.proposals
        extents = image.shape[2:]
        proposals = propose(scores, clip_boxes(boxes, extents), count=count, largest_overlap=self.plan.proposal_overlap)
        if objects is None or is_object is None or order is None:
            return (self._draw(levels, proposals, extents),)
        with torch.no_grad():
            logits = self._leave_blank(image) if self.training else self._draw(levels, proposals, extents)
        regions = choose_training_regions(self.plan, proposals, objects, is_object=is_object, order=order)
        classes, offsets = self.boxes(self._align(levels, regions.boxes, self.plan.box_bins))
        masks = self.masks(self._align(levels, regions.boxes[:, : self.plan.positive_regions], self.plan.mask_bins))
        chosen = (regions.boxes, regions.objects, regions.is_positive, regions.is_compared)
        return logits, scores, boxes, centres, *chosen, classes, offsets, masks

    def _compute_levels(self, image: Tensor) -> list[Tensor]:
        joined: list[Tensor] = self.pyramid(self.encoder(image)[-self.plan.levels :])
        return joined

    def _find_boxes(self, image: Tensor, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Finds the score and the box of every cell, and its centre."""
        scores, distances = (torch.cat(parts, dim=1) for parts in zip(*map(self.proposals, levels), strict=True))
        cells = [
            list_cells(level.shape[2:], stride, image.device)
            for level, stride in zip(levels, self.strides, strict=True)
        ]
        centres, strides = (torch.cat(parts) for parts in zip(*cells, strict=True))
        return scores, decode_boxes(centres, strides, distances), centres

    def _align(self, levels: list[Tensor], boxes: Tensor, bins: int) -> Tensor:
        return align_regions(levels, self.strides, boxes, bins=bins, samples_per_bin=self.plan.samples_per_bin)

    def _draw(self, levels: list[Tensor], proposals: Proposals, extents: torch.Size) -> Tensor:
        """Classifies proposals, and draws the masks of those of the highest scores."""
        classes, offsets = self.boxes(self._align(levels, proposals.boxes, self.plan.box_bins))
        count = self.plan.positive_regions if self.training else self.plan.objects
        boxes, sure, kinds = classify(self.plan, proposals, classes, offsets, extents=extents, count=count)
        masks = self.masks(self._align(levels, boxes, self.plan.mask_bins))
        return draw_objects(
            take_class(masks, kinds),
            boxes,
            sure - compute_logit(self.plan.least_score),
            kinds,
            extents=extents,
            class_count=self.plan.class_count,
            border_fraction=self.plan.border_fraction,
        )

    def _leave_blank(self, image: Tensor) -> Tensor:
        """Returns the map of no object."""
        blank = torch.full((len(image), 1, *image.shape[2:]), BACKGROUND_LOGIT, device=image.device)
        return divide(blank, blank > 0, torch.zeros_like(blank, dtype=torch.long), self.plan.class_count)

    @property
    def output_weights(self) -> tuple[float, ...]:
        """That of the only output."""
        return (1.0,)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The layers of scores, boxes and masks."""
        return SINGLE

    @property
    def output_layers(self) -> None:
        """There are none: scores are those of regions, not of voxels."""
        return

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Sets the first weights; scores begin low."""
        super().initialize_weights(generator)
        self.proposals.set_first_outputs(generator)
        self.boxes.set_first_outputs(generator)
