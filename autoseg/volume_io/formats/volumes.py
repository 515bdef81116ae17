"""Volumes in memory, the protocols of file formats and image libraries, and what the formats share."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from jaxtyping import Float32, Int32, Shaped

from autoseg.errors import AutosegError, GridError, VolumeError
from autoseg.geometry import PLANAR_SPACING_FACTOR, FloatTriple, Grid
from autoseg.run_folder import make_folder, translate_write_errors, write_atomically
from autoseg.temporary_files import name_temporary

PICTURE_SPACING_MM: Final[FloatTriple] = (PLANAR_SPACING_FACTOR, 1.0, 1.0)

# Headers store single precision and some programs round to three digits; more than that is another grid.
LENGTH_TOLERANCE_MM: Final = 1e-3
DIRECTION_TOLERANCE: Final = 1e-3

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
        GridError: They differ; both grids are printed.
        VolumeError: They differ, and at least one is that of a picture, which has no physical coordinates.
    """
    differences = list_grid_differences(reference, other)
    if differences:
        mixed = reference.is_oriented != other.is_oriented
        advice = (
            "one is a picture, which has neither spacing nor place: save both in one format"
            if mixed
            else "resample one onto the other, or repair the header that is wrong"
        )
        msg = (
            f"{what}: the grids differ in {', '.join(differences)}\n"
            f"    expected {reference.describe()}\n"
            f"    found    {other.describe()}\n"
            f"    {advice}"
        )
        raise (GridError if reference.is_oriented and other.is_oriented else VolumeError)(msg)


def check_finite_grid(grid: Grid, path: Path | str) -> Grid:
    """Checks the numbers of a grid and returns it.

    Raises:
        VolumeError: There is no voxel, a spacing is not positive, or a number is not finite.
    """
    if min(grid.shape_voxels) < 1:
        msg = f"{path}: expected at least one voxel along every axis, found {grid.shape_voxels}"
        raise VolumeError(msg)
    spacing = np.asarray(grid.spacing_mm)
    others = np.concatenate([np.ravel(grid.direction), grid.origin_mm])
    if not (np.isfinite(spacing).all() and (spacing > 0).all() and np.isfinite(others).all()):
        msg = (
            f"{path}: spacing must be positive, origin and direction finite; found spacing {grid.spacing_mm} mm, "
            f"origin {grid.origin_mm} mm, direction {grid.direction}; repair the file's header"
        )
        raise VolumeError(msg)
    return grid


@contextmanager
def translate_decoder_errors(path: Path | str) -> Iterator[None]:
    """Translates the exceptions that decoders raise on broken files into a VolumeError."""
    try:
        yield
    except (AutosegError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        msg = f"{path} cannot be read: {reason[-1]}; the file may be damaged or cut off: copy or convert it again"
        raise VolumeError(msg) from error


def list_grid_differences(reference: Grid, other: Grid, *, is_exact: bool = False) -> list[str]:
    """Lists the differences of two grids; those below the tolerances count only if `is_exact`."""
    differences = [] if reference.shape_voxels == other.shape_voxels else ["shape"]
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
