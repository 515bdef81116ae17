"""The choice between 2D networks alone and 3D networks as well."""

from collections.abc import Sequence

import numpy as np

from autoseg.fingerprint import CaseFingerprint
from autoseg.geometry import IntTriple
from autoseg.plan.decisions import Decision
from planners.reasons import format_extents
from planners.rules.median_shape import ResampledDataset


def choose_dimensionality(
    dataset: ResampledDataset, cases: Sequence[CaseFingerprint], axis_permutation: IntTriple
) -> Decision[tuple[int, ...]]:
    """Chooses 2D networks always, 3D ones unless the median case is a single slice, as stored or after resampling.

    Returns:
        (2,) or (2, 3).
    """
    slices = dataset.median_shape_voxels[0]
    depths = [case.cropped_shape_voxels[axis_permutation[0]] for case in cases]
    single = depths.count(1)
    depth = f"the median case is {slices:g} deep along the first plan axis"
    numbers = f"{depth} and {single} of {len(cases)} cases are single slices"
    if slices == 1 or np.median(depths) == 1:
        return Decision((2,), f"{numbers}, so the data are pictures and 3D networks have nothing to see across slices")
    return Decision((2, 3), f"{numbers}, so the data are volumes")


def explain_flat_patch(patch_voxels: tuple[int, ...], dataset: ResampledDataset) -> str:
    """Explains why a 3D patch of a single slice is not planned, although the data are volumes."""
    return (
        f"a 3D patch of {format_extents(patch_voxels)} voxels (median case: "
        f"{format_extents(dataset.median_shape_voxels)}) would hold one slice only, which a 2D network sees as well"
    )
