"""The patch size: as much context as the memory allows."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from autoseg.errors import PlanError
from autoseg.geometry import Border
from autoseg.plan.decisions import Decision
from autoseg.plan.network import NetworkPlan
from planners.reasons import UNIT_NAMES, format_amount, format_extents, format_lengths
from planners.rules.median_shape import ResampledDataset
from planners.rules.memory import MemoryBudget, describe_budget
from planners.rules.topology import FEWEST_STAGES, UNET_TOPOLOGY, Topology

# Edge of the largest isotropic patch, per dimensions. Implementation detail of the reference planner: only a start from
# which the patch is reduced, so it must be larger than what the memory allows.
LARGEST_ISOTROPIC_EDGE_VOXELS: Final = {2: 2048, 3: 256}

EstimateElements = Callable[[Topology], int]
ComputeTopology = Callable[[Sequence[float], Sequence[float]], Topology]


def compute_initial_patch(dataset: ResampledDataset) -> tuple[float, ...]:
    """Computes a patch isotropic in millimetres, of 256^3 (2048^2) voxels, cropped to the median case.

    Returns:
        Extents in voxels; fractional where the median case is.
    """
    aspect = 1 / np.array(dataset.spacing_mm)
    dimensions = len(dataset.spacing_mm)
    edge = LARGEST_ISOTROPIC_EDGE_VOXELS[dimensions]
    wanted = aspect * (edge**dimensions / np.prod(aspect)) ** (1 / dimensions)
    return tuple(
        min(max(round(float(extent)), 1), median)
        for extent, median in zip(wanted, dataset.median_shape_voxels, strict=True)
    )


def choose_border(network: NetworkPlan) -> Decision[Border]:
    """Chooses what patches hold beyond the image: it is mirrored for networks whose patches always reach beyond it."""
    if not any(network.margin_voxels):
        return Decision("zeros", "as in the reference planner")
    return Decision(
        "mirror",
        f"the output of the network is smaller than the patch by {format_extents(network.margin_voxels)} voxels at "
        f"either end, so patches reach beyond the image, which is mirrored there as published (overlap-tile strategy)",
    )


def choose_patch_size(
    dataset: ResampledDataset,
    *,
    budget: MemoryBudget,
    estimate: EstimateElements,
    compute_topology: ComputeTopology = UNET_TOPOLOGY.compute,
) -> Decision[Topology]:
    """Shortens the axis that covers most of the median case until the network fits into the memory.

    Source: nnU-Net paper (Isensee et al. 2021), "patch size"; every step follows the reference planner.

    Args:
        dataset: The data at the spacing of the network.
        budget: Memory limit.
        estimate: Estimates the feature map elements of a network.
        compute_topology: Computes the topology from spacing and wanted extents.

    Raises:
        PlanError: Not even a network of two resolutions fits.
    """
    initial = compute_initial_patch(dataset)
    topology = compute_topology(dataset.spacing_mm, initial)
    first, steps = topology.patch_voxels, 0
    _check_stages(topology)
    while budget.is_exceeded_by(elements := estimate(topology)):
        shorter = _shorten(topology, dataset, compute_topology)
        _check_shorter(shorter, topology, describe_budget(budget, elements))
        topology = shorter
        steps += 1
    return Decision(topology, _explain(dataset, first, (topology, steps), describe_budget(budget, elements)))


def _shorten(topology: Topology, dataset: ResampledDataset, compute_topology: ComputeTopology) -> Topology:
    """Shortens by one step the axis with the largest share of the median case (the last of equals), if possible.

    An axis of a single voxel is left alone; the reference planner would shorten it to nothing.

    Returns:
        The same topology if no axis can be shortened.
    """
    patch = topology.patch_voxels
    shares = [extent / median for extent, median in zip(patch, dataset.median_shape_voxels, strict=True)]
    candidates = [axis for axis, extent in enumerate(patch) if extent > 1]
    for axis in sorted(candidates, key=lambda candidate: (shares[candidate], candidate), reverse=True):
        # The step is the divisor that the shortened patch would have, which may be smaller than the present one.
        trial = compute_topology(dataset.spacing_mm, _subtract(patch, axis, topology.divisors[axis]))
        shorter = compute_topology(dataset.spacing_mm, _subtract(patch, axis, trial.divisors[axis]))
        if shorter.patch_voxels != patch:
            return shorter
    return topology


def _check_stages(topology: Topology) -> None:
    if topology.stage_count < FEWEST_STAGES:
        msg = (
            f"no network with two resolutions fits into the memory: a patch of "
            f"{format_extents(topology.patch_voxels)} voxels has only one; state more accelerator memory"
        )
        raise PlanError(msg)


def _subtract(patch: tuple[int, ...], axis: int, step: int) -> tuple[int, ...]:
    return (*patch[:axis], max(1, patch[axis] - step), *patch[axis + 1 :])


def _check_shorter(shorter: Topology, topology: Topology, numbers: str) -> None:
    if shorter.patch_voxels == topology.patch_voxels or shorter.stage_count < FEWEST_STAGES:
        msg = (
            f"no network with two resolutions fits into the memory: a patch of "
            f"{format_extents(topology.patch_voxels)} voxels has {numbers}; state more accelerator memory"
        )
        raise PlanError(msg)


def _explain(dataset: ResampledDataset, first: tuple[int, ...], last: tuple[Topology, int], numbers: str) -> str:
    topology, steps = last
    start = (
        f"starts at {format_extents(first)} (isotropic in {UNIT_NAMES[dataset.distance_unit]} at "
        f"{format_lengths(dataset.spacing_mm, dataset.distance_unit)}, cut to the median case of "
        f"{format_extents(dataset.median_shape_voxels)} voxels, rounded up to the strides)"
    )
    if steps == 0:
        return f"{start} and fits as it is: {numbers}"
    reduced = f"is reduced in {format_amount(steps, 'step')} to {format_extents(topology.patch_voxels)}"
    return f"{start} and {reduced}: {numbers}"
