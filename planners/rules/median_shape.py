"""The dataset after resampling: the shape of the median case and the number of all voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.fingerprint import CaseFingerprint
from autoseg.geometry import DistanceUnit, FloatTriple, IntTriple


@dataclass(frozen=True, slots=True, kw_only=True)
class ResampledDataset:
    """A dataset at one spacing, in plan axes.

    Attributes:
        spacing_mm: Two or three values.
        median_shape_voxels: Median shape, one value per axis; a median of an even number of cases may be fractional.
        voxel_count: Voxels of a median case (always in 3D) times the number of cases.
        distance_unit: Unit of the spacing, for messages alone.
    """

    spacing_mm: tuple[float, ...]
    median_shape_voxels: tuple[float, ...]
    voxel_count: float
    distance_unit: DistanceUnit = "mm"

    @property
    def in_plane(self) -> "ResampledDataset":
        """Returns the dataset of a 2D configuration: without plan axis 0, with all its voxels."""
        return ResampledDataset(
            spacing_mm=self.spacing_mm[1:],
            median_shape_voxels=self.median_shape_voxels[1:],
            voxel_count=self.voxel_count,
            distance_unit=self.distance_unit,
        )


def compute_resampled_dataset(
    cases: Sequence[CaseFingerprint],
    *,
    target_spacing_mm: FloatTriple,
    axis_permutation: IntTriple,
    distance_unit: DistanceUnit = "mm",
) -> ResampledDataset:
    """Computes every case's shape after resampling, rounded half to even (at least one voxel), and the median.

    Args:
        cases: All training cases.
        target_spacing_mm: Target spacing along z, y, x.
        axis_permutation: Plan axis i is array axis `axis_permutation[i]`.
        distance_unit: Unit of the spacings.
    """
    spacings_mm = np.array([case.spacing_mm for case in cases])
    shapes = np.array([case.cropped_shape_voxels for case in cases])
    # Divide first, then multiply: another order rounds some shapes to another integer.
    resampled = np.maximum(np.round(spacings_mm / np.array(target_spacing_mm) * shapes), 1.0)
    median = np.median(resampled, axis=0)[list(axis_permutation)]
    return ResampledDataset(
        spacing_mm=tuple(target_spacing_mm[axis] for axis in axis_permutation),
        median_shape_voxels=tuple(float(extent) for extent in median),
        voxel_count=float(np.prod(median) * len(cases)),
        distance_unit=distance_unit,
    )
