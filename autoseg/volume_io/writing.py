"""Writes label maps, images and probabilities."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, Integer, Shaped

from autoseg.errors import VolumeError
from autoseg.file_endings import WRITABLE_ENDINGS, find_ending
from autoseg.geometry import Grid
from autoseg.remote.local_files import use_local
from autoseg.run_folder import translate_library_errors, write_atomically
from autoseg.volume_io.formats import WRITERS

PROBABILITIES_ENDING: Final = ".b2nd"
COMPRESSION_LEVEL: Final = 1  # most probabilities are 0 or 1 and compress at any level


def write_label_map(path: Path, label_map: Integer[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> None:
    """Writes a label map in its own integer dtype, atomically, on exactly the grid given.

    Args:
        path: The file; its ending selects the format.
        label_map: The values to be written.
        grid: The grid of the label map.
        like: The source image. Where both files are NIfTI (or both MGH), its header is copied: qform and sform
            with their codes, units, description.

    Raises:
        VolumeError: The format cannot hold the values or the grid, or `like` lies on another grid.
        RunError: The file cannot be written.
    """
    _write(path, label_map, grid=grid, like=like)


def build_label_map(path: Path, label_map: Integer[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> Any:
    """Builds in memory what `write_label_map` writes.

    Returns:
        An image of nibabel or SimpleITK; an array (y, x) or (z, y, x) for pictures, which have no header.

    Raises:
        VolumeError: `like` lies on another grid, or the ending cannot be written.
    """
    with use_local(like):
        return WRITERS[_check_ending(path)].build(path, label_map, grid=grid, like=like)


def write_picture(path: Path, picture: Integer[np.ndarray, "z y x"], *, grid: Grid) -> None:
    """Writes the grey values of a picture, atomically and without changing them.

    Raises:
        VolumeError: The format cannot hold the integers.
        RunError: The file cannot be written.
    """
    _write(path, picture, grid=grid, like=None)


def write_image(path: Path, image: Float32[np.ndarray, "z y x"], *, grid: Grid) -> None:
    """Writes an image of one channel, atomically.

    Raises:
        VolumeError: The format cannot hold floating-point numbers or the grid.
        RunError: The file cannot be written.
    """
    _write(path, image, grid=grid, like=None)


def write_probabilities(
    path: Path,
    shape: tuple[int, int, int, int],
    slabs: Iterable[tuple[tuple[slice, slice, slice], Float32[np.ndarray, "class z y x"]]],
) -> None:
    """Writes probabilities (class, z, y, x) slab by slab as a compressed blosc2 array of float16, atomically.

    Args:
        path: A file with the ending `PROBABILITIES_ENDING`.
        shape: Shape of the whole array.
        slabs: Parts of equal shape with their location, which together make up the whole.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    import blosc2  # imported here because it takes 0.3 s

    with write_atomically(path) as temporary:
        array = None
        for place, slab in slabs:
            with translate_library_errors(temporary):
                if array is None:
                    array = blosc2.empty(
                        shape,
                        dtype=np.dtype(np.float16),
                        urlpath=str(temporary),
                        mode="w",
                        chunks=(1, *slab.shape[1:]),
                        cparams={"codec": blosc2.Codec.ZSTD, "clevel": COMPRESSION_LEVEL},
                    )
                array[:, *place] = slab.astype(np.float16, order="C")


def _write(path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> None:
    if array.shape != grid.shape_voxels:
        msg = f"the array {array.shape} and the grid {grid.shape_voxels} must have one shape"
        raise ValueError(msg)
    with use_local(like):
        WRITERS[_check_ending(path)].write(path, array, grid=grid, like=like)


def _check_ending(path: Path) -> str:
    ending = find_ending(path.name)
    if ending is None or ending not in WRITERS:
        reason = "" if ending is None else f" ({ending} files are only read)"
        msg = f"cannot write {path}: its ending must be one of {' '.join(WRITABLE_ENDINGS)}{reason}"
        raise VolumeError(msg)
    return ending
