"""The choice between 2D networks alone and 3D networks as well."""

from autoseg.fingerprint import CaseFingerprint
from autoseg.geometry import IntTriple
from autoseg.plan.decisions import Decision
from planners.rules.median_shape import ResampledDataset


def choose_dimensionality(
    dataset: ResampledDataset, cases: tuple[CaseFingerprint, ...], axis_permutation: IntTriple
) -> Decision[tuple[int, ...]]:
    """Chooses 2D networks always, 3D ones unless the median case is a single slice.

    Returns:
        (2,) or (2, 3).
    """
    slices = dataset.median_shape_voxels[0]
    single = sum(case.cropped_shape_voxels[axis_permutation[0]] == 1 for case in cases)
    depth = f"the median case is {slices:g} deep along the first plan axis"
    numbers = f"{depth} and {single} of {len(cases)} cases are single slices"
    if slices == 1 or single == len(cases):
        return Decision((2,), f"{numbers}, so the data are pictures and 3D networks have nothing to see across slices")
    return Decision((2, 3), f"{numbers}, so the data are volumes")
