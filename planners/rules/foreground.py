"""Shares of foreground in images, and of surface in the foreground, by the fingerprint of all cases."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import pi, prod
from typing import Final

import numpy as np

from autoseg.fingerprint import CaseFingerprint, Fingerprint

ELLIPSOID_FRACTION: Final = pi / 6
"""Share of its bounding box that a foreground has whose box was not measured (guess)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share over all cases.

    Attributes:
        value: Median over the cases that have foreground.
        source: Measured, or estimated from what.
    """

    value: float
    source: str


def find_box_share(fingerprint: Fingerprint) -> Share | None:
    """Finds the share of an image that the bounding box of its foreground has; None if there is no foreground."""
    fractions = [case.foreground_box_fraction for case in fingerprint.cases]
    measured = [fraction for fraction in fractions if fraction is not None]
    if measured:
        return Share(value=float(np.median(measured)), source="measured")
    has_regions = fingerprint.labels.has_regions
    shares = (
        _count_foreground(case, has_regions=has_regions) / prod(case.cropped_shape_voxels) / ELLIPSOID_FRACTION
        for case in fingerprint.cases
    )
    return _take_median((min(1.0, share) for share in shares), "by its voxels, if they were those of an ellipsoid")


def find_surface_share(fingerprint: Fingerprint) -> Share | None:
    """Finds the share of the foreground that touches another label; None if there is no foreground."""
    measured = [case.surface_fraction for case in fingerprint.cases if case.surface_fraction is not None]
    if measured:
        return Share(value=float(np.median(measured)), source="measured")
    shares = (_estimate_surface(case) for case in fingerprint.cases)
    return _take_median(shares, "by its voxels, if each class were a ball")


def find_ignored_share(fingerprint: Fingerprint) -> float | None:
    """Finds the mean share of voxels with the ignore label; None if it was not measured."""
    measured = [case.ignored_fraction for case in fingerprint.cases if case.ignored_fraction is not None]
    return float(np.mean(measured)) if measured else None


def _take_median(shares: Iterable[float], source: str) -> Share | None:
    present = [share for share in shares if share > 0]
    return Share(value=float(np.median(present)), source=source) if present else None


def _count_foreground(case: CaseFingerprint, *, has_regions: bool) -> int:
    """Counts the voxels of the foreground; regions share voxels, so that of these the largest counts."""
    counts = case.known_voxel_counts
    return max(counts) if has_regions else sum(counts)


def _estimate_surface(case: CaseFingerprint) -> float:
    """Estimates the share of the outermost voxels in balls, or in discs where there is one slice."""
    dimensions, unit = (2, pi) if case.cropped_shape_voxels[0] == 1 else (3, 4 / 3 * pi)
    counts = [count for count in case.known_voxel_counts if count > 0]
    radii = [(count / unit) ** (1 / dimensions) for count in counts]
    shells = [1 - max(0.0, 1 - 1 / radius) ** dimensions for radius in radii]
    return float(np.average(shells, weights=counts)) if counts else 0.0
