"""The spacing to which all cases are resampled for the full-resolution configurations."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from autoseg.fingerprint import CaseFingerprint
from autoseg.geometry import PLANAR_SPACING_FACTOR, DistanceUnit, FloatTriple, make_triple
from autoseg.plan.decisions import Decision
from planners.reasons import AXIS_NAMES, format_extents, format_lengths

# nnU-Net paper (Isensee et al. 2021, supplement): spacing and shape must both differ by this factor.
ANISOTROPY_FACTOR: Final = 3.0
FINE_PERCENTILE: Final = 10.0  # nnU-Net paper: coarse slices of the finer tenth of the cases
# Implementation detail of the reference planner: keeps the coarse axis strictly the coarsest, never a tie.
TIE_BREAKER_MM: Final = 1e-5


def choose_target_spacing(
    cases: Sequence[CaseFingerprint], distance_unit: DistanceUnit = "mm"
) -> Decision[FloatTriple]:
    """Chooses the median spacing of every axis, except that a very coarse axis gets a finer one.

    An axis is very coarse if its median spacing is more than three times that of each other axis and its median
    extent is less than a third of each other extent. Then the 10th percentile of its spacings is taken, but never less
    than the coarsest of the other axes. Source: nnU-Net paper (Isensee et al. 2021), "target spacing".

    Returns:
        Lengths along z, y, x.
    """
    spacings_mm = np.array([case.spacing_mm for case in cases])
    target_mm = np.percentile(spacings_mm, 50, axis=0)
    shape = np.percentile([case.cropped_shape_voxels for case in cases], 50, axis=0)
    coarse = int(np.argmax(target_mm))
    others = [axis for axis in range(3) if axis != coarse]
    ratio = target_mm[coarse] / max(target_mm[others])
    medians = f"the median spacing of {len(cases)} cases is {format_lengths(target_mm, distance_unit)}"
    numbers = f"{medians} (coarsest axis {ratio:.3g} times the next) at a median of {format_extents(shape)} voxels"
    is_coarse = target_mm[coarse] > ANISOTROPY_FACTOR * max(target_mm[others])
    if not (is_coarse and shape[coarse] * ANISOTROPY_FACTOR < min(shape[others])):
        because = f"{numbers}; that is not anisotropic (factor 3 in spacing and in extent), so the median is kept"
        return Decision(make_triple(target_mm), _explain_plane(cases, distance_unit) or because)
    fine_mm = float(np.percentile(spacings_mm[:, coarse], FINE_PERCENTILE))
    limit_mm = float(max(target_mm[others]))
    target_mm[coarse] = fine_mm if fine_mm >= limit_mm else limit_mm + TIE_BREAKER_MM
    because = (
        f"{numbers}; that is anisotropic (factor 3 in spacing and in extent), so the coarsest axis takes the 10th "
        f"percentile of its spacings, {format_lengths([fine_mm], distance_unit)}, but not less than the "
        f"{format_lengths([limit_mm], distance_unit)} of the next axis"
    )
    return Decision(make_triple(target_mm), _explain_plane(cases, distance_unit) or because)


def find_missing_axis(cases: Sequence[CaseFingerprint]) -> int | None:
    """Finds the axis that two-dimensional images do not have; None if any case has three axes."""
    for axis in range(3):
        if all(_lacks(case, axis) for case in cases):
            return axis
    return None


def format_spacing(spacing_mm: FloatTriple, cases: Sequence[CaseFingerprint], distance_unit: DistanceUnit) -> str:
    """Formats the spacing along the axes that the images have, as in "1 x 1 pixels (y, x)"."""
    missing = find_missing_axis(cases)
    axes = [axis for axis in range(3) if axis != missing]
    lengths = format_lengths([spacing_mm[axis] for axis in axes], distance_unit)
    return f"{lengths} ({', '.join(AXIS_NAMES[axis] for axis in axes)})"


def _lacks(case: CaseFingerprint, axis: int) -> bool:
    """Returns whether an axis has one voxel and the spacing that means none; in single precision, as in headers."""
    others = [length for other, length in enumerate(case.spacing_mm) if other != axis]
    is_placeholder = case.spacing_mm[axis] >= PLANAR_SPACING_FACTOR * max(others) * (1 - 1e-6)
    return case.shape_voxels[axis] == 1 and is_placeholder


def _explain_plane(cases: Sequence[CaseFingerprint], distance_unit: DistanceUnit) -> str | None:
    """Explains the spacing of two-dimensional images; None for others, for which the rule is explained."""
    if find_missing_axis(cases) is None:
        return None
    if distance_unit == "pixel":
        return f"the files of {len(cases)} cases tell no spacing, so all lengths are in pixels"
    return f"the median of {len(cases)} two-dimensional images, which have no third axis to be coarse along"
