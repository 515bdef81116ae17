"""Detectors (YOLOv6, Li et al. 2022, arXiv:2209.02976), whose boxes are drawn into a map."""

from math import log, prod
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.boxes import decode_boxes, draw_boxes, list_cells, suppress_boxes
from autoseg.networks.parts.detection import DecoupledHead, FastPyramidPooling, RepPan
from autoseg.networks.parts.rep_units import RepUnit, RepUnits
from autoseg.plan.network.detector import DetectorPlan

MOST_BOXES: Final = 32
"""Boxes of the highest scores that are drawn for a patch (guess: a few objects, and what overlaps them)."""
BACKGROUND_SCORE: Final = 0.05
"""Score of a voxel that no box holds. The logits of mirrored views, windows and folds are averaged: a voxel that only
some of them put into a box is foreground if these are sure enough (guess)."""


class Detector(SegmentationNetwork):
    """Stages of re-parameterized convolutions, a neck that joins their features, and a head at several resolutions.

    `strides` are those of the levels, the highest resolution first.
    """

    plan: DetectorPlan

    levels: range

    def __init__(self, plan: DetectorPlan) -> None:
        super().__init__(plan)
        widths, last = plan.features_per_stage, plan.stage_count - 1
        self.stages = nn.ModuleList(
            nn.Sequential(
                RepUnit(below, width, plan.kernel_sizes[stage], stride=plan.strides[stage]),
                *([RepUnits(width, width, plan.kernel_sizes[stage], count=count)] if count else []),
            )
            for stage, (below, width, count) in enumerate(
                zip((plan.input_channels, *widths), widths, plan.blocks_per_stage, strict=False)
            )
        )
        self.pooling = FastPyramidPooling(widths[-1], plan.kernel_sizes[-1])
        self.neck = RepPan(plan)
        self.levels = range(last + 1 - plan.levels, last + 1)
        self.heads = nn.ModuleList(
            DecoupledHead(plan, channels, stage)
            for channels, stage in zip(self.neck.channels, self.levels, strict=True)
        )
        self.strides = [
            tuple(prod(steps) for steps in zip(*plan.strides[: stage + 1], strict=True)) for stage in self.levels
        ]

    def forward(self, image: Float[Tensor, "batch channel *space"], has_cells: bool = False) -> tuple[Tensor, ...]:
        """Computes logits, in which boxes are drawn.

        Args:
            image: Its extents are multiples of `NetworkPlan.patch_divisors`.
            has_cells: Whether to return of every cell what training compares, too; then no gradient flows to logits,
                and in training mode, in which nobody looks at them, no box is drawn.

        Returns:
            The logits; with `has_cells`, of every cell the logits of its classes, those of the bins of its distances,
            its box, its centre and its extents, all of them in voxels.
        """
        found = [head(features) for head, features in zip(self.heads, self._compute_levels(image), strict=True)]
        scores, bins = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        centres, strides = self._list_cells(image)
        boxes = decode_boxes(centres, strides, compute_distances(bins))
        extents = image.shape[2:]
        if not has_cells:
            return (self._draw(scores, boxes, extents, most=MOST_BOXES),)
        with torch.no_grad():
            logits = self._draw(scores, boxes, extents, most=0 if self.training else MOST_BOXES)
        return logits, scores, bins, boxes, centres, strides

    def _compute_levels(self, image: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        features[-1] = self.pooling(features[-1])
        joined: list[Tensor] = self.neck(features[self.levels.start :])
        return joined

    def _list_cells(self, image: Tensor) -> tuple[Tensor, Tensor]:
        cells = [
            list_cells(
                [extent // step for extent, step in zip(image.shape[2:], stride, strict=True)], stride, image.device
            )
            for stride in self.strides
        ]
        centres, strides = (torch.cat(parts) for parts in zip(*cells, strict=True))
        return centres, strides

    def _draw(self, scores: Tensor, boxes: Tensor, extents: torch.Size, *, most: int) -> Tensor:
        """Draws the boxes of the highest scores that do not overlap; every voxel gets a logit for each class."""
        count = min(most, scores.shape[1])
        best = scores.amax(dim=-1).topk(count, dim=1).indices
        scores = scores.gather(1, best[..., None].expand(-1, -1, scores.shape[-1]))
        boxes = boxes.gather(1, best[..., None, None].expand(-1, -1, *boxes.shape[2:]))
        kept = suppress_boxes(boxes, self.plan.largest_overlap)
        lowest = compute_logit(BACKGROUND_SCORE)
        heights = (scores - lowest).clamp(min=0) * kept[..., None]
        drawn = draw_boxes(boxes, heights, extents) + (lowest - compute_logit(self.plan.least_score))
        if self.plan.probabilities == "sigmoid":
            return drawn
        return torch.cat((torch.zeros_like(drawn[:, :1]), drawn), dim=1)

    @property
    def output_weights(self) -> tuple[float, ...]:
        """That of the only output."""
        return (1.0,)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The layers of scores and distances."""
        return tuple(f"heads.{level}.{name}" for level in range(len(self.heads)) for name in ("scores", "distances"))

    @property
    def output_layers(self) -> None:
        """There are none: scores are those of cells, not of voxels."""
        return

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Sets the first weights; scores begin low."""
        super().initialize_weights(generator)
        for head in self.heads:
            assert isinstance(head, DecoupledHead)
            head.set_first_outputs()


def compute_distances(bins: Float[Tensor, "batch cell 2 axes bin"]) -> Float[Tensor, "batch cell 2 axes"]:
    """Computes distances in strides: the mean over the bins, or, of a single one, its value."""
    if bins.shape[-1] == 1:
        return bins[..., 0]
    places = torch.arange(bins.shape[-1], device=bins.device, dtype=bins.dtype)
    return (bins.softmax(dim=-1) * places).sum(dim=-1)


def compute_logit(probability: float) -> float:
    """Computes the logit of a probability."""
    return log(probability / (1 - probability))
