"""The order of axes in the plan: first the one along which 2D networks see slices."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from autoseg.fingerprint import CaseFingerprint
from autoseg.geometry import DistanceUnit, FloatTriple, IntTriple
from autoseg.plan.decisions import Decision
from planners.reasons import AXIS_NAMES
from planners.rules.spacing import format_spacing
from planners.rules.topology import POOLABLE_EXTENT_VOXELS

# An axis too short to be halved even once makes strips of the planes that it lies in. The factor keeps small images,
# of which every axis is short, as the reference planner has them (guess: that of the rules for anisotropy).
THIN_FACTOR: Final = 3.0


def choose_axis_permutation(
    target_spacing_mm: FloatTriple, cases: Sequence[CaseFingerprint], distance_unit: DistanceUnit = "mm"
) -> Decision[IntTriple]:
    """Puts the axis with the coarsest target spacing first (the first of equals) and keeps the order of the others.

    Where the median case is a single slice, or is thin along one axis, that axis comes first whatever its spacing (the
    reference planner would plan 2D networks for lines or strips of pixels there).

    Returns:
        Plan axis i is array axis `value[i]`.
    """
    median = [float(extent) for extent in np.median([case.cropped_shape_voxels for case in cases], axis=0)]
    thin_axes = [axis for axis in range(3) if median[axis] == 1] or _find_thin_axes(median)
    candidates = thin_axes or [0, 1, 2]
    first = max(candidates, key=lambda axis: (target_spacing_mm[axis], -axis))
    second, third = (axis for axis in range(3) if axis != first)
    spacing = f"the target spacing is {format_spacing(target_spacing_mm, cases, distance_unit)}"
    if thin_axes:
        because = f"{_explain_thinness(cases, median, first)}, so that axis comes first; {spacing}"
    else:
        because = (
            f"{spacing} and {AXIS_NAMES[first]} is coarsest, so slices of 2D networks lie across {AXIS_NAMES[first]}"
        )
    return Decision((first, second, third), because)


def _find_thin_axes(median_shape_voxels: list[float]) -> list[int]:
    """Finds the axis along which the median case has a few voxels, and many along both others."""
    return [
        axis
        for axis, extent in enumerate(median_shape_voxels)
        if extent < POOLABLE_EXTENT_VOXELS
        and THIN_FACTOR * extent <= min(other for index, other in enumerate(median_shape_voxels) if index != axis)
    ]


def _explain_thinness(cases: Sequence[CaseFingerprint], median_shape_voxels: list[float], axis: int) -> str:
    single, name = sum(case.cropped_shape_voxels[axis] == 1 for case in cases), AXIS_NAMES[axis]
    if single == len(cases):
        return f"every case has a single voxel along {name}"
    median = f"the median case has {median_shape_voxels[axis]:g} voxel{'' if median_shape_voxels[axis] == 1 else 's'}"
    if median_shape_voxels[axis] == 1:
        return f"{median} along {name} ({single} of {len(cases)} cases are single slices)"
    return f"{median} along {name}, too few to be halved"
