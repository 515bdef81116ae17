"""Preprocessed cases in memory, and the geometry that leads back to the grid of the file."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int16, Int32

from autoseg.document import Document, PositiveTriple, ShapeTriple
from autoseg.geometry import (
    IDENTITY,
    FloatTriple,
    Grid,
    Reorientation,
    compute_reorientation,
)
from autoseg.nonzero_region import Box, slice_box

OUTSIDE_LABEL = -1  # background outside the nonzero region, in preprocessed label maps


class CaseGeometry(Document):
    """The geometry that brings an array of a preprocessed case back to the grid of its file.

    Attributes:
        grid: The grid of the file.
        orientation: The orientation of the plan; None if images keep their own.
        axis_permutation: The permutation of the plan, applied after the orientation.
        crop_box: The crop in plan axes, half open.
        cropped_shape_voxels: Shape in plan axes, before resampling.
        resampled_shape_voxels: Shape of the preprocessed arrays.
        cropped_spacing_mm: Spacing in plan axes, before resampling.
        target_spacing_mm: Spacing in plan axes, after resampling; for a 2D configuration the first one is the case's.
        intensity_scales: Standard deviation of each channel inside the crop, before normalization, which the arrays do
            not show any more; empty in cases of earlier versions.
    """

    schema_version: Literal[1] = 1
    grid: Grid
    orientation: str | None
    axis_permutation: tuple[int, int, int]
    crop_box: Box
    cropped_shape_voxels: ShapeTriple
    resampled_shape_voxels: ShapeTriple
    cropped_spacing_mm: PositiveTriple
    target_spacing_mm: PositiveTriple
    intensity_scales: tuple[float, ...] = ()

    @property
    def reorientation(self) -> Reorientation:
        """The change from the axes of the file to plan axes; its `inverse` leads back."""
        return compute_plan_axes(self.grid, self.orientation, self.axis_permutation)

    @property
    def crop_slices(self) -> tuple[slice, slice, slice]:
        """Slices of the crop in an array in plan axes."""
        return slice_box(self.crop_box)

    @property
    def uncropped_shape_voxels(self) -> tuple[int, int, int]:
        """Shape in plan axes, before cropping."""
        return self.reorientation.apply_to_grid(self.grid).shape_voxels


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCase:
    """A case in plan axes, cropped and normalized, as all configurations of a plan share it.

    Attributes:
        image: The normalized image, which must not be modified.
        label_map: Internal labels, and -1 for background outside the nonzero region; None in prediction.
        grid: The grid of the file.
        crop_box: The crop in plan axes.
        spacing_mm: The spacing in plan axes.
        nonzero_mask: The nonzero mask of the crop; None if it was not needed.
        objects: Number of the object at every voxel; None if touching objects are not separated.
        intensity_scales: Standard deviation of each channel inside the crop, before normalization.
    """

    image: Float32[np.ndarray, "channel z y x"]
    label_map: Int16[np.ndarray, "z y x"] | None
    grid: Grid
    crop_box: Box
    spacing_mm: FloatTriple
    nonzero_mask: Bool[np.ndarray, "z y x"] | None
    objects: Int32[np.ndarray, "z y x"] | None = None
    intensity_scales: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessedCase:
    """A case as the network gets it, in plan axes, with its geometry.

    Attributes:
        image: The cropped, normalized and resampled image.
        label_map: Internal labels, and -1 for background outside the nonzero region; None in prediction.
        geometry: The geometry that leads back to the grid of the file.
    """

    image: Float32[np.ndarray, "channel z y x"]
    label_map: Int16[np.ndarray, "z y x"] | None
    geometry: CaseGeometry


def compute_plan_axes(grid: Grid, orientation: str | None, axis_permutation: tuple[int, int, int]) -> Reorientation:
    """Returns the change from the axes of a file to plan axes."""
    reorientation = IDENTITY
    if orientation is not None and grid.is_oriented:
        reorientation = compute_reorientation(grid.orientation_code, orientation)
    first, second, third = axis_permutation
    axes, flips = reorientation.permutation, reorientation.is_flipped
    return Reorientation(
        permutation=(axes[first], axes[second], axes[third]), is_flipped=(flips[first], flips[second], flips[third])
    )


def mark_outside(
    label_map: Int16[np.ndarray, "z y x"], nonzero_mask: Bool[np.ndarray, "z y x"]
) -> Int16[np.ndarray, "z y x"]:
    """Returns a copy in which background outside the nonzero region is -1."""
    marked = np.array(label_map, order="C")
    marked[(marked == 0) & ~nonzero_mask] = OUTSIDE_LABEL
    return marked
