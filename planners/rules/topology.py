"""The pooling and the kernels of a U-Net, for a given spacing and patch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from autoseg.geometry import DistanceUnit
from autoseg.plan.decisions import Decision
from autoseg.plan.values import MOST_STAGES
from planners.reasons import format_amount, format_extents, format_lengths

# nnU-Net paper: no edge of the bottleneck gets shorter than 4 voxels, so an axis is halved from 8 voxels on ...
SMALLEST_BOTTLENECK_EDGE_VOXELS: Final = 4
POOLABLE_EXTENT_VOXELS: Final = 2 * SMALLEST_BOTTLENECK_EDGE_VOXELS
# ... and, in the reference planner, from 12 voxels on if it is halved alone.
LONE_POOLABLE_EXTENT_VOXELS: Final = 3 * SMALLEST_BOTTLENECK_EDGE_VOXELS
SPACING_FACTOR: Final = 2.0  # nnU-Net paper: axes within a factor of two are treated alike
FEWEST_STAGES: Final = 2  # a U-Net without a second resolution has no decoder
FEWEST_SUPERVISED_OUTPUTS: Final = 2  # the lowest has no weight in the loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Shape of a U-Net.

    Attributes:
        patch_voxels: The wanted patch, every extent rounded up to a multiple of its divisor.
        strides: Per stage; the first stage has ones.
        kernel_sizes: Per stage.
        divisors: Product of the strides of every axis.
    """

    patch_voxels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    divisors: tuple[int, ...]

    @property
    def stage_count(self) -> int:
        """Number of resolutions, the bottleneck included."""
        return len(self.strides)

    @property
    def bottleneck_voxels(self) -> tuple[int, ...]:
        """Extents of the lowest resolution."""
        return tuple(extent // divisor for extent, divisor in zip(self.patch_voxels, self.divisors, strict=True))

    @property
    def stage_voxels(self) -> tuple[int, ...]:
        """Voxels of a patch at every resolution."""
        extents = list(self.patch_voxels)
        voxels = []
        for stride in self.strides:
            extents = [extent // step for extent, step in zip(extents, stride, strict=True)]
            voxels.append(math.prod(extents))
        return tuple(voxels)


def compute_topology(
    spacing_mm: Sequence[float], extents_voxels: Sequence[float], *, most_stages: int = MOST_STAGES
) -> Topology:
    """Halves, stage by stage, the axes of finest spacing that are long enough.

    An axis gets kernels of 3 as soon as its spacing is less than twice the finest, and keeps them; before that its
    kernels are 1. The bottleneck has 3 everywhere. Source: nnU-Net paper (Isensee et al. 2021), "network topology".

    Args:
        spacing_mm: Per axis.
        extents_voxels: Wanted patch (may be fractional).
        most_stages: Number of stages at which halving ends at the latest.
    """
    spacing, extents = list(spacing_mm), list(extents_voxels)
    axes = range(len(extents))
    kernel = [1] * len(extents)
    strides, kernels = [tuple(1 for _ in axes)], []
    while len(strides) < most_stages and (pooled := _find_pooled_axes(spacing, extents)):
        finest = min(spacing)
        kernel = [3 if spacing[axis] / finest < SPACING_FACTOR else kernel[axis] for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            spacing[axis] *= 2
            extents[axis] = math.ceil(extents[axis] / 2)
    kernels.append(tuple(3 for _ in axes))
    divisors = tuple(math.prod(stride[axis] for stride in strides) for axis in axes)
    patch = tuple(math.ceil(extents_voxels[axis] / divisors[axis]) * divisors[axis] for axis in axes)
    return Topology(patch_voxels=patch, strides=tuple(strides), kernel_sizes=tuple(kernels), divisors=divisors)


def explain_topology(
    topology: Topology, spacing_mm: Sequence[float], distance_unit: DistanceUnit = "mm"
) -> Decision[Topology]:
    """Puts into words why pooling ended and why some kernels are flat."""
    bottleneck = topology.bottleneck_voxels
    if max(bottleneck) < POOLABLE_EXTENT_VOXELS:
        stop = f"every axis of the bottleneck ({format_extents(bottleneck)} voxels) is shorter than 8 voxels"
    else:
        stop = (
            f"a single axis of the bottleneck ({format_extents(bottleneck)} voxels) qualifies, and a lone axis is "
            f"halved from {LONE_POOLABLE_EXTENT_VOXELS} voxels on"
        )
    because = f"only axes of at least 8 voxels, with a spacing below twice the finest, are halved; here {stop}"
    return Decision(topology, because + explain_flat_kernels(topology, spacing_mm, distance_unit))


def explain_flat_kernels(topology: Topology, spacing_mm: Sequence[float], distance_unit: DistanceUnit) -> str:
    """Puts into words why some kernels are flat, to be added to a reason; empty if none is."""
    flat = sum(1 in kernel for kernel in topology.kernel_sizes)
    if not flat:
        return ""
    return (
        f"; at {format_lengths(spacing_mm, distance_unit)} the kernels of the first {format_amount(flat, 'stage')} are "
        f"1 along axes that are still at least twice as coarse as the finest"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyRule:
    """A rule for the strides and kernels of a family of networks.

    Attributes:
        compute: The topology for a spacing and the wanted extents, which it rounds up to what the network takes.
        explain: Puts a topology into words, for a spacing in a unit.
        requirement: Condition for two resolutions, in words. `compute` returns a single stage without it.
    """

    compute: Callable[[Sequence[float], Sequence[float]], Topology]
    explain: Callable[[Topology, Sequence[float], DistanceUnit], Decision[Topology]]
    requirement: str = (
        f"a U-Net needs two axes of similar spacing with at least {POOLABLE_EXTENT_VOXELS} voxels, or one with at "
        f"least {LONE_POOLABLE_EXTENT_VOXELS}"
    )


UNET_TOPOLOGY: Final = TopologyRule(compute=compute_topology, explain=explain_topology)
"""Topology rule of all networks that halve the axes of finest spacing."""


def choose_deep_supervision(topology: Topology) -> Decision[bool]:
    """Trains lower decoder outputs as well if there are three stages or more.

    The loss gives the lowest output no weight; with two stages that is the only one, and normalizing the weights would
    divide zero by zero (the reference implementation trains to NaN there).
    """
    outputs = topology.stage_count - 1
    given = f"{format_amount(topology.stage_count, 'stage')} give {format_amount(outputs, 'decoder output')}"
    if outputs < FEWEST_SUPERVISED_OUTPUTS:
        return Decision(False, f"{given}, and the lowest has no weight in the loss, so the weights would sum to 0")
    return Decision(True, f"{given}, all but the lowest with a weight in the loss")


def _find_pooled_axes(spacing_mm: Sequence[float], extents_voxels: Sequence[float]) -> tuple[int, ...]:
    long_enough = [axis for axis, extent in enumerate(extents_voxels) if extent >= POOLABLE_EXTENT_VOXELS]
    if not long_enough:
        return ()
    finest = min(spacing_mm[axis] for axis in long_enough)
    pooled = tuple(axis for axis in long_enough if spacing_mm[axis] / finest < SPACING_FACTOR)
    if len(pooled) == 1 and extents_voxels[pooled[0]] < LONE_POOLABLE_EXTENT_VOXELS:
        return ()
    return pooled
