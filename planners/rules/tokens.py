"""The blocks of voxels that become tokens of a transformer."""

import math
from collections.abc import Sequence
from typing import Final

from autoseg.geometry import DistanceUnit
from autoseg.plan.decisions import Decision
from planners.reasons import format_extents, format_lengths
from planners.rules.topology import SPACING_FACTOR, Topology, TopologyRule

TOKEN_STEPS: Final = 3  # of two voxels: tokens of 8 voxels along an axis (Wald et al. 2025, arXiv:2503.01835)
FEWEST_TOKENS: Final = 2  # along an axis whose voxels are joined
UNET_KERNEL_VOXELS: Final = 3  # of the plain U-Net with whose memory that of the network is compared


def compute_token_topology(spacing_mm: Sequence[float], extents_voxels: Sequence[float]) -> Topology:
    """Doubles the extents of a token three times, each time along the axes along which it is shortest in space.

    Axes count as equally short within a factor of two, so that tokens of isotropic images have 8 voxels along every
    axis, and those of thick slices fewer across them. An axis that would get fewer than two tokens is left.

    Args:
        spacing_mm: Per axis.
        extents_voxels: Wanted patch (may be fractional).
    """
    lengths, axes = list(spacing_mm), range(len(spacing_mm))
    token = [1] * len(lengths)
    steps = []
    for _ in range(TOKEN_STEPS):
        long_enough = [axis for axis in axes if extents_voxels[axis] >= 2 * FEWEST_TOKENS * token[axis]]
        shortest = min((lengths[axis] for axis in long_enough), default=0.0)
        step = tuple(2 if axis in long_enough and lengths[axis] / shortest < SPACING_FACTOR else 1 for axis in axes)
        if max(step) == 1:
            break
        steps.append(step)
        token = [extent * factor for extent, factor in zip(token, step, strict=True)]
        lengths = [length * factor for length, factor in zip(lengths, step, strict=True)]
    ones = tuple(1 for _ in axes)
    patch = tuple(math.ceil(extents_voxels[axis] / token[axis]) * token[axis] for axis in axes)
    return Topology(
        patch_voxels=patch,
        strides=(ones, *steps),
        kernel_sizes=((UNET_KERNEL_VOXELS,) * len(token),) * (1 + len(steps)),
        divisors=tuple(token),
    )


def explain_token_topology(
    topology: Topology, spacing_mm: Sequence[float], distance_unit: DistanceUnit = "mm"
) -> Decision[Topology]:
    """Puts into words which voxels a token stands for."""
    token = format_extents(topology.divisors)
    spacing = format_lengths(spacing_mm, distance_unit)
    because = (
        f"a token stands for {token} voxels: {TOKEN_STEPS} doublings of the axes along which it is shortest at "
        f"{spacing}; the patch has {format_extents(topology.bottleneck_voxels)} tokens"
    )
    return Decision(topology, because)


TOKEN_TOPOLOGY: Final = TopologyRule(compute=compute_token_topology, explain=explain_token_topology)
"""Topology rule of transformers whose tokens are blocks of voxels."""
