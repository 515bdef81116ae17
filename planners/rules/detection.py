"""Detect, then segment: a network at full resolution that works only in the box of what a detector finds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import DetectorPlan
from autoseg.plan.objectives import DetectionObjective
from autoseg.plan.training import TrainingPlan
from planners.reasons import format_amount, format_lengths, record
from planners.rules.median_shape import ResampledDataset
from planners.rules.topology import Topology
from planners.rules.unet import choose_features

DETECT: Final = "detect_then_segment"
DETECTOR: Final = "3d_detector"

BASE_FEATURES: Final = 16  # YOLOv6-N, whose stages have 16, 32, 64, 128, 256
MOST_FEATURES: Final = 256
BLOCKS: Final = (2, 4, 6)  # YOLOv6-N: of the stages after the first; the last number repeats ...
LAST_BLOCKS: Final = 2  # ... up to the last stage
NECK_BLOCKS: Final = 4
DISTANCE_BINS: Final = 17  # 0 to 16 strides: YOLOv6-M and -L
LEAST_SCORE: Final = 0.25  # guess: a box too many costs time, a missing one the case
LARGEST_OVERLAP: Final = 0.65  # YOLOv6
CELLS_PER_EDGE: Final = 4.0
"""Cells along an edge of the median object at the finest level, so that 64 cells lie in it: several times the 13 that
are assigned to it (guess). YOLOv6 has strides of 8 pixels for objects of 32 and more."""
DETECTOR_MARGIN_VOXELS: Final = 2.0
"""Margin of the box of the second stage in voxels of the detector: boxes hold 5 mm around the object already (guess;
`box_recall` of a validation tells whether it suffices)."""
DILATION_MM: Final = 5.0
BOXES: Final[dict[str, Any]] = {
    "cells_per_object": 13,
    "score_power": 1.0,
    "overlap_power": 6.0,
    "negative_weight": 0.75,
    "focusing_power": 2.0,
    "box_loss": "giou",
    "box_weight": 2.5,
}
"""Assignment and losses of boxes of YOLOv6 (arXiv:2209.02976), as fields of an objective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorRule:
    """Chooses a detector for a topology.

    Attributes:
        object_voxels: Edges of the median object at the full resolution of the detector, one value per axis; None
            while its spacing is looked for: boxes are found from the second stage on.
    """

    object_voxels: tuple[float, ...] | None = None

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int
    ) -> tuple[DetectorPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        dimensions = len(topology.patch_voxels)
        features = choose_features(topology.stage_count, dimensions=dimensions, width=BASE_FEATURES, most=MOST_FEATURES)
        first = choose_first_level(topology, self.object_voxels)
        network = DetectorPlan(
            dimensions=2 if dimensions == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            features_per_stage=features.value,
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            blocks_per_stage=list_blocks(topology.stage_count),
            neck_blocks=NECK_BLOCKS,
            levels=topology.stage_count - first.value,
            distance_bins=DISTANCE_BINS,
            least_score=LEAST_SCORE,
            largest_overlap=LARGEST_OVERLAP,
        )
        return network, (
            record("features", features, ", ".join(map(str, features.value))),
            record("levels", first, format_amount(network.levels, "resolution")),
        )


def list_blocks(stage_count: int) -> tuple[int, ...]:
    """Lists the convolutions of every stage after its first one."""
    between = tuple(BLOCKS[min(stage, len(BLOCKS) - 1)] for stage in range(stage_count - 2))
    return (0, *between, LAST_BLOCKS)


def choose_first_level(topology: Topology, object_voxels: Sequence[float] | None) -> Decision[int]:
    """Chooses the stage of the finest level at which boxes are found; all coarser ones follow."""
    if object_voxels is None:
        return Decision(1, "the size of the objects is not known, so boxes are found at every reduced resolution")
    strides = np.cumprod(np.array(topology.strides), axis=0)
    cells = np.exp(np.log(np.array(object_voxels) / strides).mean(axis=1))
    fine = [stage for stage in range(1, topology.stage_count) if cells[stage] >= CELLS_PER_EDGE]
    stage = max(fine, default=1)
    numbers = f"an edge of the median object has {cells[stage]:.3g} cells (mean of the axes) at strides of "
    numbers += " x ".join(map(str, strides[stage]))
    if not fine:
        return Decision(stage, f"{numbers}, the finest reduced resolution, fewer than {CELLS_PER_EDGE:g}")
    return Decision(stage, f"{numbers}, the coarsest resolution with at least {CELLS_PER_EDGE:g}; coarser ones follow")


def choose_object_edge(fingerprint: Fingerprint) -> Decision[float | None]:
    """Chooses the edge of the object that the levels are made for: a cube of the median volume of all foreground."""
    volumes = [volume for case in fingerprint.cases if (volume := _measure_foreground_mm3(fingerprint, case)) > 0]
    if not volumes:
        return Decision(None, "no case has foreground")
    edge_mm = float(np.median(volumes)) ** (1 / 3) + 2 * DILATION_MM
    length = format_lengths((edge_mm,), fingerprint.distance_unit)
    return Decision(
        edge_mm,
        f"a cube of the median volume of the foreground of {format_amount(len(volumes), 'case')}, with "
        f"{DILATION_MM:g} added at either end, has edges of {length}",
    )


def _measure_foreground_mm3(fingerprint: Fingerprint, case: CaseFingerprint) -> float:
    """Measures the volume of the foreground; of regions, which may overlap, that of the largest."""
    counts = case.voxel_counts or (0,)
    voxels = max(counts) if fingerprint.labels.has_regions else sum(counts)
    return voxels * math.prod(case.spacing_mm)


def measure_object(edge: Decision[float | None], dataset: ResampledDataset) -> DetectorRule:
    """Returns the rule for objects of that edge at the spacing of a dataset."""
    if edge.value is None:
        return DetectorRule()
    return replace(DetectorRule(), object_voxels=tuple(edge.value / spacing for spacing in dataset.spacing_mm))


def choose_detection(training: TrainingPlan) -> Decision[TrainingPlan]:
    """Chooses the objective of a detector."""
    objective = DetectionObjective(**BOXES, dilation_mm=DILATION_MM, class_weight=1.0, bin_weight=0.5)
    because = (
        f"boxes of connected components, {DILATION_MM:g} larger at either end, are compared with those of the "
        f"{BOXES['cells_per_object']} cells that fit best; weights and powers of YOLOv6, whose SIoU loss is one of the "
        f"plane, so GIoU as in its larger networks"
    )
    return Decision(training.model_copy(update={"objective": objective}), because)
