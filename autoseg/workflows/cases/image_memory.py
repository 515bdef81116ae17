"""Estimates the memory that a process needs to predict images, from their headers."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Final

from autoseg.geometry import Grid
from autoseg.network_cost import PROCESS_BYTES, MeasureCost, estimate_host_training_bytes
from autoseg.plan.document import Plan
from autoseg.preprocessing.case import compute_plan_axes
from autoseg.preprocessing.pipeline import compute_target_spacing
from autoseg.preprocessing.resample import compute_resampled_shape
from autoseg.processes.case_pool import CaseSize

LOGITS_IN_MEMORY: Final = 3  # of a predicted case: the sum, its weights and mirrored views, the restored grid
BYTES_PER_LOGIT: Final = 4
BYTES_PER_IMAGE_VOXEL: Final = 12  # guess, of each channel: as it was read, oriented, and resampled beside it
BYTES_PER_LABEL_VOXEL: Final = 8  # guess: the label map, and the one that postprocessing makes of it
MARGIN: Final = 1.5  # of the estimated RAM, which a job must not exceed by a byte


def estimate_prediction_sizes(
    grids: Mapping[str, Grid], plan: Plan, members: Sequence[str], *, measure_cost: MeasureCost | None
) -> dict[str, CaseSize]:
    """Estimates what the process that predicts an image needs, the networks included.

    Args:
        grids: Grid of the first channel by name of the image.
        plan: Plan of the models.
        members: Configurations whose probabilities are averaged; empty for any one of the plan.
        measure_cost: Counts what a network costs; None for networks on a GPU, which cost no RAM.
    """
    groups = [plan.list_stages(name) for name in members] or [tuple(plan.configurations)]
    networks = sum(max(_estimate_network_bytes(plan, name, measure_cost) for name in group) for group in groups)
    sizes = {}
    for case, grid in grids.items():
        voxels = prod(grid.shape_voxels)
        logits = sum(_count_most_voxels(grid, plan, group) for group in groups)
        needed = voxels * (len(plan.channels) * BYTES_PER_IMAGE_VOXEL + BYTES_PER_LABEL_VOXEL)
        needed += logits * plan.labels.output_channel_count * BYTES_PER_LOGIT * LOGITS_IN_MEMORY
        sizes[case] = CaseSize(voxels=voxels, estimated_bytes=round(MARGIN * (networks + needed)))
    return sizes


def _estimate_network_bytes(plan: Plan, name: str, measure_cost: MeasureCost | None) -> int:
    """Estimates process and network from above: on a CPU, a batch of windows takes less than a training step."""
    if measure_cost is None:
        return PROCESS_BYTES
    configuration = plan.configurations[name]
    cost = measure_cost(configuration.network, configuration.patch_voxels, configuration.training.batch_size)
    return estimate_host_training_bytes(configuration, "float32", cost)


def _count_most_voxels(grid: Grid, plan: Plan, names: Iterable[str]) -> int:
    """Counts the voxels of an image on the finest of the networks' grids, as if nothing were cropped."""
    first, second, third = compute_plan_axes(grid, plan.orientation, plan.axis_permutation).permutation
    extents, spacing = grid.shape_voxels, grid.spacing_mm
    shape = (extents[first], extents[second], extents[third])
    spacing_mm = (spacing[first], spacing[second], spacing[third])
    targets = (compute_target_spacing(spacing_mm, plan.configurations[name]) for name in names)
    return max(prod(compute_resampled_shape(shape, spacing_mm, target)) for target in targets)
