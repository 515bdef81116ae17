"""Volumes in memory, the protocols of file formats and image libraries, and what the formats share."""

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from jaxtyping import Float32, Int32, Shaped
from numpy.typing import NDArray

from autoseg.errors import AutosegError, GridError, PlacementError, VolumeError
from autoseg.files.temporary_files import name_temporary
from autoseg.geometry import (
    PLANAR_SPACING_FACTOR,
    FloatTriple,
    Grid,
    compute_reorientation,
    spans_volume,
)
from autoseg.run_folder import make_folder, translate_write_errors, write_atomically

PICTURE_SPACING_MM: Final[FloatTriple] = (PLANAR_SPACING_FACTOR, 1.0, 1.0)

# Headers store single precision and some programs round to three digits; more than that is another grid.
LENGTH_TOLERANCE_MM: Final = 1e-3
DIRECTION_TOLERANCE: Final = 1e-3
COPY_EXAMPLE: Final = (
    "for example SimpleITK: second.CopyInformation(first); it shows origins in LPS, the first two numbers negated"
)
UNIT_RATIOS: Final = (1000, 1_000_000)
"""Ratios of metres, millimetres and micrometres."""
RATIO_TOLERANCE: Final = 1e-3

LEAST_SPACING_MM: Final = 1e-9  # electrons resolve 1e-7 mm
LARGEST_SPACING_MM: Final = 1e9  # lengths may be pixels of 1e6, and 2D images have 999 times that across

HEADER_ENDINGS: Final = (".hdr", ".mhd", ".nhdr")
"""Endings of headers that name a second file, which holds the voxels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """An image: intensities as float32, C-contiguous."""

    array: Float32[np.ndarray, "channel z y x"]
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelVolume:
    """A label map with the values of the file."""

    array: Int32[np.ndarray, "z y x"]
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVolume:
    """The content of a file in its own dtype; `array` may be a view of any memory order."""

    array: Shaped[np.ndarray, "channel z y x"]
    grid: Grid


class FileReader(Protocol):
    """A module that reads a family of file formats. Its functions need not translate library errors."""

    def read(self, path: Path, *, as_labels: bool) -> StoredVolume:
        """Reads header and voxels; `as_labels` keeps stored values instead of palette colours or scaled greys."""
        ...

    def read_grid(self, path: Path) -> Grid:
        """Reads the header."""
        ...


class FileFormat(FileReader, Protocol):
    """A module that also writes its family of file formats."""

    def write(self, path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> None:
        """Writes one channel in its own dtype, atomically."""
        ...

    def build(self, path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> Any:
        """Builds in memory what `write` writes: an image of the format's library, or an array without one."""
        ...


class ImageLibrary(Protocol):
    """A module that converts images of a library in memory."""

    def is_image(self, image: object) -> bool:
        """Returns whether an object of the library is an image."""
        ...

    def convert(self, image: Any, what: str) -> StoredVolume:
        """Converts an image to voxels and grid; `what` names the image in messages."""
        ...

    def build_like(self, image: Any, array: Shaped[np.ndarray, "z y x"], *, grid: Grid) -> Any:
        """Builds an image of one channel with the geometry of another one, whose grid is given."""
        ...


def is_planar(grid: Grid) -> bool:
    """Returns whether a grid is that of a two-dimensional image, as marked by `make_planar_spacing`."""
    return grid.shape_voxels[0] == 1 and grid.spacing_mm == make_planar_spacing(grid.spacing_mm[1], grid.spacing_mm[2])


def make_planar_spacing(y_mm: float, x_mm: float) -> FloatTriple:
    """Returns the spacing of a two-dimensional image as a volume with z = 1."""
    return (PLANAR_SPACING_FACTOR * max(y_mm, x_mm), y_mm, x_mm)


def check_same_grid(reference: Grid, other: Grid, *, what: str) -> None:
    """Checks that two grids have the same shape, and spacing, origin and direction within 1e-3 (mm).

    Args:
        reference: The expected grid.
        other: The grid that was found.
        what: Names the two files in messages.

    Raises:
        GridError: They differ; both grids are printed. A PlacementError where resampling would move what is shown.
        VolumeError: They differ, and at least one is that of a picture, which has no physical coordinates.
    """
    differences = list_grid_differences(reference, other)
    if not differences:
        return
    explained = explain_spacings(reference, other)
    # Problems of several cases are merged by their first line, so that an explanation stands in it.
    msg = (
        f"{what}: the grids differ in {', '.join(differences)}{'' if explained is None else f'; {explained}'}\n"
        f"    expected {reference.describe()}\n"
        f"    found    {other.describe()}"
    )
    if explained is not None:
        raise PlacementError(msg)
    msg += f"\n    {_advise(reference, other)}"
    if not (reference.is_oriented and other.is_oriented):
        raise VolumeError(msg)
    raise (PlacementError if has_same_voxels(reference, other) else GridError)(msg)


def has_same_voxels(reference: Grid, other: Grid) -> bool:
    """Returns whether two grids have the same shape and spacing, and differ in their place at most."""
    distance = np.abs(np.subtract(reference.spacing_mm, other.spacing_mm)).max()
    return reference.shape_voxels == other.shape_voxels and bool(distance <= LENGTH_TOLERANCE_MM)


def explain_spacings(reference: Grid, other: Grid) -> str | None:
    """Explains why the spacings of two files that belong together cannot both be right; None if they may be.

    Files of the same shape mostly hold the same voxels, whatever their headers say. Resampling one onto the other would
    move and scale what the voxels show.
    """
    if not (reference.is_oriented and other.is_oriented):
        return None
    counted = np.minimum(reference.shape_voxels, other.shape_voxels) > 1  # along a single voxel it places nothing
    found, expected = (np.asarray(grid.spacing_mm)[counted] for grid in (other, reference))
    spacings = " and ".join(" x ".join(f"{value:.6g}" for value in grid.spacing_mm) for grid in (reference, other))
    factor = _find_unit_ratio(expected / found)
    if factor is not None:
        return (
            f"the spacings, {spacings} mm, differ by a factor of {factor:,}, so the files state different units of "
            f'length: copy the unit of the right one to the other (for example nibabel: header.set_xyzt_units("mm"))'
        )
    is_equal = bool((np.abs(expected - found) <= LENGTH_TOLERANCE_MM).all())
    if reference.shape_voxels != other.shape_voxels or is_equal or _is_permuted(reference, other):
        return None
    return (
        f"the shape agrees and the spacings, {spacings} mm, do not, so one header has probably lost its spacing: copy "
        f"the right header to the other file ({COPY_EXAMPLE}); if both are right, resample one onto the other yourself"
    )


def _find_unit_ratio(ratios: NDArray[np.float64]) -> int | None:
    """Finds the ratio of two units of length by which all spacings differ; None if there is none."""
    largest = np.maximum(ratios, 1 / ratios)
    is_one_way = bool((ratios > 1).all() or (ratios < 1).all())
    fitting = [unit for unit in UNIT_RATIOS if (np.abs(largest / unit - 1) <= RATIO_TOLERANCE).all()]
    return fitting[0] if fitting and is_one_way and ratios.size else None


def _is_permuted(reference: Grid, other: Grid) -> bool:
    """Returns whether two grids are the same voxels with their axes in another order."""
    change = compute_reorientation(other.orientation_code, reference.orientation_code)
    return not list_grid_differences(reference, change.apply_to_grid(other))


def _advise(reference: Grid, other: Grid) -> str:
    if reference.is_oriented != other.is_oriented:
        return "one is a picture, which has neither spacing nor place: save both in one format"
    if not has_same_voxels(reference, other):
        return "resample one onto the other, or repair the header that is wrong"
    corners = np.array(
        [(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in reference.shape_voxels[::-1]))]
    )
    distance_mm = np.linalg.norm((corners @ (reference.affine - other.affine).T)[:, :3], axis=1).max()
    return (
        f"shape and spacing agree, so one header places the same voxels wrongly, by up to {distance_mm:.3g} mm: if the "
        f"files show the same when their headers are ignored, copy the header of one to the other "
        f"({COPY_EXAMPLE}); if not, save one in the axes of the other"
    )


def check_finite_grid(grid: Grid, path: Path | str) -> Grid:
    """Checks the numbers of a grid and returns it.

    Raises:
        VolumeError: There is no voxel, a spacing is not positive, a number is not finite, or the axes lie in a plane.
    """
    if min(grid.shape_voxels) < 1:
        msg = f"{path}: expected at least one voxel along every axis, found {grid.shape_voxels}"
        raise VolumeError(msg)
    spacing = np.asarray(grid.spacing_mm)
    others = np.concatenate([np.ravel(grid.direction), grid.origin_mm])
    if not (np.isfinite(spacing).all() and (spacing > 0).all() and np.isfinite(others).all()):
        msg = (
            f"{path}: spacing must be positive, origin and direction finite; found spacing {grid.spacing_mm} mm, "
            f"origin {grid.origin_mm} mm in RAS, direction {grid.direction}; repair the file's header"
        )
        raise VolumeError(msg)
    if not spans_volume(grid.direction):
        msg = (
            f"{path}: the axes map the volume onto a plane: those of z, y and x lie along {grid.direction} in RAS; "
            f"repair the file's header"
        )
        raise VolumeError(msg)
    if spacing.min() < LEAST_SPACING_MM or spacing.max() > LARGEST_SPACING_MM:
        msg = (
            f"{path}: expected a spacing of {LEAST_SPACING_MM:g} to {LARGEST_SPACING_MM:g} mm, found "
            f"{grid.spacing_mm} mm; repair the file's header"
        )
        raise VolumeError(msg)
    return grid


def convert_to_float32(
    path: Path | str, array: Shaped[np.ndarray, "channel z y x"]
) -> Float32[np.ndarray, "channel z y x"]:
    """Converts intensities to float32.

    Raises:
        VolumeError: The voxels are not real numbers.
    """
    if array.dtype.kind not in "biuf":
        msg = f"{path}: voxels must be numbers, found {array.dtype}; save colours as channels, complex numbers apart"
        raise VolumeError(msg)
    try:
        with np.errstate(over="raise", invalid="ignore"):
            return np.ascontiguousarray(array, dtype=np.float32)
    except FloatingPointError as error:
        is_lost = np.isfinite(array) & (np.abs(array) > np.finfo(np.float32).max)
        msg = (
            f"{path}: intensities must be below {np.finfo(np.float32).max:.3g}, as single precision holds, found "
            f"{np.max(np.abs(array[is_lost])):.3g} and the like in {np.count_nonzero(is_lost)} voxels; correct or "
            f"rescale them"
        )
        raise VolumeError(msg) from error


@contextmanager
def translate_decoder_errors(path: Path | str) -> Iterator[None]:
    """Translates the exceptions that decoders raise on broken files into a VolumeError."""
    try:
        yield
    except AutosegError:
        raise
    except MemoryError as error:
        msg = f"{path} needs more memory to be read than there is; close other programs, or crop the image"
        raise VolumeError(msg) from error
    except Exception as error:
        text = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        lines = text.strip().splitlines() or [type(error).__name__]
        is_continued = len(lines) > 1 and lines[-1].strip().startswith("-")  # as nibabel writes
        reason = " ".join(lines[-2:]) if is_continued else lines[-1]
        msg = f"{path} cannot be read: {reason}; the file may be damaged or cut off: copy or convert it again"
        raise VolumeError(msg) from error


def list_grid_differences(reference: Grid, other: Grid, *, is_exact: bool = False) -> list[str]:
    """Lists the differences of two grids; those below the tolerances count only if `is_exact`."""
    differences = [] if reference.shape_voxels == other.shape_voxels else ["shape"]
    other = _lift_flat_grid(reference, other)
    for name, tolerance, unit in (
        ("spacing_mm", LENGTH_TOLERANCE_MM, " mm"),
        ("origin_mm", LENGTH_TOLERANCE_MM, " mm"),
        ("direction", DIRECTION_TOLERANCE, ""),
    ):
        distance = float(np.abs(np.subtract(getattr(reference, name), getattr(other, name))).max())
        if not distance <= (0 if is_exact else tolerance):
            size = f"by {distance:.3g}{unit}" if reference.tells_spacing and other.tells_spacing else "one tells none"
            differences.append(f"{name.removesuffix('_mm')} ({size})")
    return differences


def _lift_flat_grid(reference: Grid, other: Grid) -> Grid:
    """Gives the grids of a 2D file and of a single slice the same third axis, of which the 2D file tells nothing.

    So an image saved as (x, y) fits a label map saved as (x, y, 1). In plane all must agree.
    """
    if is_planar(reference) == is_planar(other) or reference.shape_voxels != other.shape_voxels:
        return other
    across = np.asarray(reference.direction[0])
    offset = np.subtract(other.origin_mm, reference.origin_mm)
    in_plane = np.asarray(reference.origin_mm) + offset - (offset @ across) * across
    return replace(
        other,
        spacing_mm=(reference.spacing_mm[0], *other.spacing_mm[1:]),
        origin_mm=(float(in_plane[0]), float(in_plane[1]), float(in_plane[2])),
        direction=(reference.direction[0], *other.direction[1:]),
    )


@contextmanager
def write_pair_atomically(path: Path) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder; the files written there are moved to the folder of `path`.

    The header names the file of voxels, so both must be written under their final names. The header is moved last.
    """
    folder = make_folder(name_temporary(path))
    try:
        with translate_write_errors(path):
            yield folder / path.name
        for written in sorted(folder.iterdir(), key=lambda file: file.name.lower().endswith(HEADER_ENDINGS)):
            with write_atomically(path.parent / written.name) as temporary:
                written.replace(temporary)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
