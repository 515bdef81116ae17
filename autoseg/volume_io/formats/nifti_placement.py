"""Places images of nibabel in the world: affine, spacing, units, and headers that contradict themselves."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from autoseg.errors import VolumeError
from autoseg.geometry import PLAUSIBLE_SPACING_MM, Grid, build_grid_from_affine
from autoseg.volume_io.formats.volumes import make_planar_spacing

LOGGER = logging.getLogger(__name__)

MILLIMETRES_PER_UNIT: Final = {1: 1000.0, 3: 0.001}  # xyzt_units: metre, micrometre; all else is taken as millimetre
ZOOM_TOLERANCE_FRACTION: Final = 1e-3
FORM_TOLERANCE: Final = 1e-3
SHEAR_TOLERANCE: Final = 0.02  # cosine of the angle of two axes: volumes are off by its square, halved


def build_grid(image: Any, path: Path | str) -> Grid:
    """Builds the grid of an image of nibabel from its header.

    Raises:
        VolumeError: The image has less than two dimensions, or its axes span no space.
    """
    extents = tuple(int(extent) for extent in image.shape)
    if len(extents) < 2:
        msg = f"{path}: expected an image of two or three dimensions, found shape {extents}"
        raise VolumeError(msg)
    x, y, z = (*extents, 1)[:3]
    scale = _millimetres_per_unit(image.header)
    affine = _find_affine(image)
    affine[:3] *= scale
    if len(extents) == 2 and not affine[:3, 2].any():
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    _warn_of_conflicting_forms(image.header, path)
    try:
        grid = build_grid_from_affine(affine, (z, y, x))
    except VolumeError as error:
        msg = f"{path}: {error}"
        raise VolumeError(msg) from error
    grid = _prefer_zooms(grid, [float(zoom) * scale for zoom in image.header.get_zooms()[:3]])
    _warn_of_unit(grid, scale, path)
    _warn_of_shear(grid, path)
    if len(extents) == 2:
        return replace(grid, spacing_mm=make_planar_spacing(grid.spacing_mm[1], grid.spacing_mm[2]))
    return grid


def _find_affine(image: Any) -> Float64[np.ndarray, "4 4"]:
    """Returns the affine; a header that tells no place (Analyze, or both codes 0) is placed as ITK places it.

    ITK puts the centre of the first voxel at the origin of the world, with axes to the left, back and head: so does
    every tool that is built on it, and the label maps that it writes. nibabel would put the centre of the volume there.
    """
    header, affine = image.header, np.array(image.affine, dtype=np.float64)
    tells_place = "qform_code" in header and (header["qform_code"] > 0 or header["sform_code"] > 0)
    if tells_place or "pixdim" not in header or not np.array_equal(affine, header.get_best_affine()):
        return affine
    zooms = np.abs((*header.get_zooms(), 1.0, 1.0)[:3])
    return np.diag([*(zooms * (-1.0, -1.0, 1.0)), 1.0])


def _prefer_zooms(grid: Grid, zooms_mm: list[float]) -> Grid:
    """Replaces the spacing of the affine by that of the header where they differ only by rounding."""
    spacing = list(grid.spacing_mm)
    for axis, zoom in zip((2, 1, 0), zooms_mm, strict=False):
        if abs(zoom - spacing[axis]) <= ZOOM_TOLERANCE_FRACTION * spacing[axis]:
            spacing[axis] = zoom
    return replace(grid, spacing_mm=(spacing[0], spacing[1], spacing[2]))


def _millimetres_per_unit(header: Any) -> float:
    if "xyzt_units" not in header:
        return 1.0
    return MILLIMETRES_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _warn_of_unit(grid: Grid, scale: float, path: Path | str) -> None:
    """Warns where the unit that a header states makes the spacing implausible, as where it is in millimetres."""
    smallest, largest = PLAUSIBLE_SPACING_MM
    if scale != 1 and not smallest <= min(grid.spacing_mm) <= max(grid.spacing_mm) <= largest:
        LOGGER.warning(
            "%s: the header states lengths in %s (xyzt_units), so that the spacing is %s mm; if it is in millimetres, "
            "correct xyzt_units",
            path,
            "metres" if scale > 1 else "micrometres",
            " x ".join(f"{length:g}" for length in grid.spacing_mm),
        )


def _warn_of_shear(grid: Grid, path: Path | str) -> None:
    """Warns where axes are not at right angles, since distances and volumes follow from the spacing alone."""
    axes = np.asarray(grid.direction)
    cosine = float(np.abs(axes @ axes.T - np.eye(3)).max())
    if cosine > SHEAR_TOLERANCE:
        LOGGER.warning(
            "%s: two axes meet at %.0f degrees, as with a tilted gantry; distances and volumes are computed as if all "
            "were at right angles: resample it to upright slices first, for example with dcm2niix",
            path,
            np.degrees(np.arccos(min(cosine, 1.0))),
        )


def _warn_of_conflicting_forms(header: Any, path: Path | str) -> None:
    if "sform_code" not in header or header["sform_code"] <= 0 or header["qform_code"] <= 0:
        return
    from nibabel.spatialimages import HeaderDataError

    try:
        difference = float(np.abs(header.get_sform() - header.get_qform()).max())
    except (HeaderDataError, ValueError) as error:
        LOGGER.warning("%s: the qform is invalid (%s); the sform is used", path, error)
        return
    if not difference <= FORM_TOLERANCE:
        LOGGER.warning("%s: sform and qform differ by up to %.4g; the sform is used", path, difference)
