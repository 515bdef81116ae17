"""The choice of a second, coarser spacing where the patch sees too little of a case."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from autoseg.plan.decisions import Decision
from planners.reasons import format_count, format_extents, format_lengths, format_share
from planners.rules.median_shape import ResampledDataset

# The patch should see at least this share of the median case, or context is missing (version 2 of nnU-Net).
SUFFICIENT_CONTEXT_FRACTION: Final = 0.25
COARSENING_FACTOR: Final = 1.03  # version 2 of nnU-Net: 3 % per step
ISOTROPY_FACTOR: Final = 2.0  # axes finer than half the coarsest are coarsened first
SMALLEST_REDUCTION: Final = 2.0  # with fewer than half as many voxels saved a second network adds little

ChoosePatch = Callable[[ResampledDataset], tuple[int, ...]]


def choose_low_resolution(
    full: ResampledDataset, *, full_patch_voxels: tuple[int, ...], case_count: int, choose_patch: ChoosePatch
) -> Decision[ResampledDataset | None]:
    """Coarsens the spacing until the patch covers a quarter of the median case.

    Source: nnU-Net paper (Isensee et al. 2021), "3D low resolution U-Net".

    Args:
        full: The dataset at full resolution.
        full_patch_voxels: Patch of the full-resolution network.
        case_count: Training cases.
        choose_patch: The patch that a network at another spacing would get.
    """
    full_voxels = math.prod(full.median_shape_voxels)
    covered = math.prod(full_patch_voxels) / full_voxels
    numbers = (
        f"the patch {format_extents(full_patch_voxels)} covers {format_share(covered)} of the median case of "
        f"{format_extents(full.median_shape_voxels)} voxels"
    )
    if covered >= SUFFICIENT_CONTEXT_FRACTION:
        return Decision(None, f"{numbers}, not less than 25 %, so full resolution sees enough")
    low, low_voxels = _search(full, case_count=case_count, choose_patch=choose_patch)
    reduction = full_voxels / low_voxels
    found = (
        f"{numbers}, less than 25 %; that is reached at {format_lengths(low.spacing_mm, low.distance_unit)} with "
        f"{format_count(low_voxels)} voxels, {reduction:.3g} times fewer"
    )
    if reduction < SMALLEST_REDUCTION:
        return Decision(None, f"{found}, which is less than a factor of 2, so a second resolution is not worth while")
    return Decision(low, f"{found}, at least a factor of 2")


def _search(full: ResampledDataset, *, case_count: int, choose_patch: ChoosePatch) -> tuple[ResampledDataset, float]:
    low_mm, covered = np.array(full.spacing_mm), 0.0
    while covered < SUFFICIENT_CONTEXT_FRACTION:
        low_mm = coarsen(low_mm)
        low, voxels = compute_coarser(full, low_mm, case_count=case_count)
        covered = math.prod(choose_patch(low)) / voxels
    return low, voxels


def compute_coarser(
    full: ResampledDataset, spacing_mm: np.ndarray, *, case_count: int
) -> tuple[ResampledDataset, float]:
    """Computes the dataset at another spacing, and the voxels of its median case before its shape is rounded."""
    shape = np.array(full.spacing_mm) / spacing_mm * np.array(full.median_shape_voxels)
    # The unrounded shape decides about coverage and dataset size, the rounded one about the patch.
    voxels = float(np.prod(shape))
    coarser = ResampledDataset(
        spacing_mm=tuple(float(value) for value in spacing_mm),
        median_shape_voxels=tuple(float(extent) for extent in np.maximum(np.round(shape), 1.0)),
        voxel_count=voxels * case_count,
        distance_unit=full.distance_unit,
    )
    return coarser, voxels


def coarsen(spacing_mm: np.ndarray) -> np.ndarray:
    """Coarsens by one step of 3 % the axes more than twice as fine as the coarsest, or all if there are none."""
    is_fine = max(spacing_mm) / spacing_mm > ISOTROPY_FACTOR
    factor = np.where(is_fine, COARSENING_FACTOR, 1.0) if is_fine.any() else COARSENING_FACTOR
    coarser: np.ndarray = spacing_mm * factor
    return coarser
