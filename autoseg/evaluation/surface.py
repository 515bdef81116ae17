"""Distances between the surfaces of two masks: HD95, their average and maximum, and normalized surface Dice.

The definitions are those of Nikolov et al. 2018 (arXiv:1809.04430) and of DeepMind's public package: surface elements
weigh by their area (contour elements by their length), positions are the corners between voxels. Counting voxels
instead gives other numbers.
"""

from dataclasses import dataclass
from typing import Final

import edt
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from autoseg.evaluation.surface_elements import compute_areas, compute_codes, fill_unknown

HAUSDORFF_FRACTION: Final = 0.95
DISTANCE_ROUNDING: Final = 1e-5  # distances are float32: a distance equal to the tolerance up to rounding is within it
AREA_ROUNDING: Final = 1e-12  # likewise for the share of the area, which is summed as float64


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceAgreement:
    """Agreement of two surfaces.

    Attributes:
        hd95_mm: The larger of the two directed 95th percentiles of the distances; None if a mask is empty.
        surface_dice: Share of both surfaces that lies within the tolerance of the other one; 0 if one mask is empty,
            None if both are.
        average_distance_mm: Average symmetric surface distance: mean of the distances of the elements of both
            surfaces, weighted by area; None if a mask is empty.
        maximum_distance_mm: Maximum symmetric surface distance (Hausdorff distance); None if a mask is empty.
    """

    hd95_mm: float | None
    surface_dice: float | None
    average_distance_mm: float | None
    maximum_distance_mm: float | None


DirectedDistances = tuple[Float32[np.ndarray, " _"], Float64[np.ndarray, " _"]]
"""Distances (mm) of the elements of a surface to the other one, ascending, and the areas (mm^2) of the elements."""


def compute_surface_agreement(
    prediction: Bool[np.ndarray, "*space"],
    reference: Bool[np.ndarray, "*space"],
    *,
    spacing_mm: tuple[float, ...],
    tolerance_mm: float,
    ignored: Bool[np.ndarray, "*space"] | None = None,
) -> SurfaceAgreement:
    """Compares the surfaces of two masks with two or three axes.

    The time depends on the whole array: crop it to both masks first. Everything beyond the array counts as outside.

    Args:
        prediction: Mask, empty at ignored voxels.
        reference: Mask, likewise.
        spacing_mm: Spacing of all.
        tolerance_mm: Distance within which surfaces agree.
        ignored: Voxels of which it is not known whether they are inside: where they cut a mask, there is no surface.
            Crop to one voxel around both masks, so that they are known. A mask without any other surface is taken as
            empty.
    """
    if not (prediction.any() and reference.any()):
        return _judge_missing(is_one_there=bool(prediction.any() or reference.any()))
    codes = (compute_codes(prediction), compute_codes(reference))
    areas_mm2 = compute_areas(spacing_mm)
    if ignored is not None:
        unknown = compute_codes(ignored)
        codes = (fill_unknown(codes[0], unknown), fill_unknown(codes[1], unknown))
        has_surface = [bool((areas_mm2 > 0)[side].any()) for side in codes]
        if not all(has_surface):
            return _judge_missing(is_one_there=any(has_surface))
    distances_mm = [_compute_distances_to_surface(side, areas_mm2, spacing_mm) for side in codes]
    directed = [
        _collect_elements(codes[0], areas_mm2, distances_mm[1]),
        _collect_elements(codes[1], areas_mm2, distances_mm[0]),
    ]
    return SurfaceAgreement(
        hd95_mm=max(_compute_percentile(side, HAUSDORFF_FRACTION) for side in directed),
        surface_dice=_compute_share_within(directed, tolerance_mm),
        average_distance_mm=_compute_average(directed),
        maximum_distance_mm=max(float(distances_mm[-1]) for distances_mm, _ in directed),
    )


def _judge_missing(*, is_one_there: bool) -> SurfaceAgreement:
    return SurfaceAgreement(
        hd95_mm=None,
        surface_dice=0.0 if is_one_there else None,
        average_distance_mm=None,
        maximum_distance_mm=None,
    )


def _compute_distances_to_surface(
    codes: UInt8[np.ndarray, "*corners"], areas_mm2: Float64[np.ndarray, " codes"], spacing_mm: tuple[float, ...]
) -> Float32[np.ndarray, "*corners"]:
    beside_surface = (areas_mm2 == 0).astype(np.uint8)[codes]  # edt is a third faster on uint8 than on bool
    distances_mm: Float32[np.ndarray, "*corners"] = edt.edt(beside_surface, anisotropy=spacing_mm, black_border=False)
    return distances_mm


def _collect_elements(
    codes: UInt8[np.ndarray, "*corners"],
    areas_mm2: Float64[np.ndarray, " codes"],
    distances_mm: Float32[np.ndarray, "*corners"],
) -> DirectedDistances:
    on_surface = (areas_mm2 > 0)[codes]
    areas, distances = areas_mm2[codes[on_surface]], distances_mm[on_surface]
    order = np.argsort(distances, kind="stable")
    return distances[order], areas[order]


def _compute_percentile(directed: DirectedDistances, fraction: float) -> float:
    """Computes the smallest distance within which at least this fraction of the area lies."""
    distances_mm, areas_mm2 = directed
    area_mm2 = np.cumsum(areas_mm2)
    index = int(np.searchsorted(area_mm2, fraction * area_mm2[-1] * (1 - AREA_ROUNDING)))
    return float(distances_mm[index])


def _compute_average(directed: list[DirectedDistances]) -> float:
    weighted_mm3 = sum(float(areas_mm2 @ distances_mm) for distances_mm, areas_mm2 in directed)
    return weighted_mm3 / sum(float(areas_mm2.sum()) for _, areas_mm2 in directed)


def _compute_share_within(directed: list[DirectedDistances], tolerance_mm: float) -> float:
    limit_mm = tolerance_mm * (1 + DISTANCE_ROUNDING)
    within_mm2 = sum(float(areas_mm2[distances_mm <= limit_mm].sum()) for distances_mm, areas_mm2 in directed)
    return within_mm2 / sum(float(areas_mm2.sum()) for _, areas_mm2 in directed)
