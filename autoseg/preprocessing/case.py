"""Preprocessed cases in memory, and the geometry that leads back to the grid of the file."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int16

from autoseg.document import Document
from autoseg.fingerprint import PositiveTriple, ShapeTriple
from autoseg.geometry import IDENTITY, FloatTriple, Grid, Reorientation, compute_reorientation
from autoseg.nonzero_region import Box, slice_box

OUTSIDE_LABEL = -1  # background outside the nonzero region, in preprocessed label maps


class CaseGeometry(Document):
    """All that is needed to bring an array of a preprocessed case back to the grid of its file.

    Attributes:
        grid: Of the file.
        orientation: To which the plan brings images; None if it leaves them alone.
        axis_permutation: Of the plan, applied after the orientation.
        crop_box: Half open, in plan axes.
        cropped_shape_voxels: In plan axes, before resampling.
        resampled_shape_voxels: Of the preprocessed arrays.
        cropped_spacing_mm: In plan axes, before resampling.
        target_spacing_mm: In plan axes; for a 2D configuration the first one is the case's own.
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

    @property
    def reorientation(self) -> Reorientation:
        """From the axes of the file to plan axes; its `inverse` leads back."""
        return compute_plan_axes(self.grid, self.orientation, self.axis_permutation)

    @property
    def crop_slices(self) -> tuple[slice, slice, slice]:
        """Cut the crop out of an array in plan axes."""
        return slice_box(self.crop_box)

    @property
    def uncropped_shape_voxels(self) -> tuple[int, int, int]:
        """In plan axes, before cropping."""
        return self.reorientation.apply_to_grid(self.grid).shape_voxels


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCase:
    """A case in plan axes, cropped and normalized: what all configurations of a plan share.

    Attributes:
        image: Normalized; not to be changed.
        label_map: Internal labels, and -1 for background outside the nonzero region; None in prediction.
        grid: Of the file.
        crop_box: In plan axes.
        spacing_mm: In plan axes.
        nonzero_mask: Of the crop; None where nothing needed it.
    """

    image: Float32[np.ndarray, "channel z y x"]
    label_map: Int16[np.ndarray, "z y x"] | None
    grid: Grid
    crop_box: Box
    spacing_mm: FloatTriple
    nonzero_mask: Bool[np.ndarray, "z y x"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessedCase:
    """A case as the network sees it, in plan axes, and the way back.

    Attributes:
        image: Cropped, normalized, resampled.
        label_map: Internal labels, and -1 for background outside the nonzero region; None in prediction.
        geometry: The way back to the grid of the file.
        previous: In the prediction of a cascade, the case as the network of the previous stage sees it.
        nonzero_mask: With `previous`, that of the crop before resampling.
    """

    image: Float32[np.ndarray, "channel z y x"]
    label_map: Int16[np.ndarray, "z y x"] | None
    geometry: CaseGeometry
    previous: "PreprocessedCase | None" = None
    nonzero_mask: Bool[np.ndarray, "crop_z crop_y crop_x"] | None = None


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
    """A copy in which background outside the nonzero region is -1."""
    marked = np.array(label_map, order="C")
    marked[(marked == 0) & ~nonzero_mask] = OUTSIDE_LABEL
    return marked
