"""The order of axes in the plan: first the one along which 2D networks see slices."""

from autoseg.fingerprint import CaseFingerprint
from autoseg.geometry import DistanceUnit, FloatTriple, IntTriple
from autoseg.plan.decisions import Decision
from planners.reasons import AXIS_NAMES
from planners.rules.spacing import format_spacing


def choose_axis_permutation(
    target_spacing_mm: FloatTriple, cases: tuple[CaseFingerprint, ...], distance_unit: DistanceUnit = "mm"
) -> Decision[IntTriple]:
    """Puts the axis with the coarsest target spacing first (the first of equals) and keeps the order of the others.

    Where every case is a single slice, the slice axis comes first whatever its spacing (the reference planner would
    plan a network across the slice there).

    Returns:
        Plan axis i is array axis `value[i]`.
    """
    slice_axes = [axis for axis in range(3) if all(case.cropped_shape_voxels[axis] == 1 for case in cases)]
    candidates = slice_axes or [0, 1, 2]
    first = max(candidates, key=lambda axis: (target_spacing_mm[axis], -axis))
    second, third = (axis for axis in range(3) if axis != first)
    spacing = f"the target spacing is {format_spacing(target_spacing_mm, cases, distance_unit)}"
    if slice_axes:
        because = f"every case has a single voxel along {AXIS_NAMES[first]}, so that axis comes first; {spacing}"
    else:
        because = (
            f"{spacing} and {AXIS_NAMES[first]} is coarsest, so slices of 2D networks lie across {AXIS_NAMES[first]}"
        )
    return Decision((first, second, third), because)
