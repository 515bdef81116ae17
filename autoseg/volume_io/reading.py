"""Reads images, label maps and grids of any format."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int32, Shaped

from autoseg.dicom_files import FOLDER_ADVICE, explain_dicom, is_series_folder
from autoseg.errors import VolumeError
from autoseg.file_endings import LOSSY_ENDINGS, PICTURE_ENDINGS, READABLE_ENDINGS, TIFF_ENDINGS, find_ending
from autoseg.geometry import Grid
from autoseg.remote.local_files import use_local
from autoseg.volume_io.dicom.stack import find_only_stack, read_stack
from autoseg.volume_io.formats import READERS, pictures
from autoseg.volume_io.formats.headers import nrrd
from autoseg.volume_io.formats.volumes import (
    LabelVolume,
    StoredVolume,
    Volume,
    check_finite_grid,
    check_same_grid,
    convert_to_float32,
    list_grid_differences,
    translate_decoder_errors,
)
from autoseg.volume_io.regrid import resample_image_onto_grid

# Scaled integers (scl_slope) are read with the rounding error of single precision.
INTEGER_TOLERANCE: Final = 1e-4
COLOURS: Final = 3
GIF: Final = ".gif"


def read_image(paths: Sequence[Path], *, fix_geometry: bool = False, channel_count: int | None = None) -> Volume:
    """Reads an image: one file per channel, or one file with several channels.

    Args:
        paths: Files in the order of the channels.
        fix_geometry: Resample files on another grid than that of the first (linearly) instead of refusing them.
        channel_count: Expected number of channels, if known: where every file must be one channel, greys that were
            saved as colours are read as greys.

    Raises:
        VolumeError: A file cannot be read, or the files do not have the same grid.
    """
    if not paths:
        msg = "an image needs at least one file, found none"
        raise VolumeError(msg)
    stored = [_read(path, as_labels=False) for path in paths]
    grid = stored[0].grid
    arrays = []
    for path, channel in zip(paths, stored, strict=True):
        array = merge_equal_colours(channel) if len(paths) == channel_count else channel.array
        volume = Volume(array=convert_to_float32(path, array), grid=channel.grid)
        if fix_geometry and list_grid_differences(grid, channel.grid):
            volume = resample_image_onto_grid(volume, grid, what=f"{path}, onto the grid of {paths[0]}")
        check_same_grid(grid, volume.grid, what=f"{path} (found) and {paths[0]} (expected)")
        arrays.append(volume.array)
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return Volume(array=array, grid=grid)


def merge_equal_colours(stored: StoredVolume) -> Shaped[np.ndarray, "channel z y x"]:
    """Returns one channel if red, green and blue of a picture are equal, else all channels."""
    array = stored.array
    is_colour = not stored.grid.is_oriented and len(array) == COLOURS
    return array[:1] if is_colour and (array[1:] == array[:1]).all() else array


def read_label_map(path: Path) -> LabelVolume:
    """Reads a label map with the values of the file.

    Raises:
        VolumeError: It cannot be read, has several channels, or holds values that are not integers.
    """
    if find_ending(path.name) in LOSSY_ENDINGS:
        msg = f"{path}: JPEG changes label values on saving; save label maps as PNG"
        raise VolumeError(msg)
    stored = _read(path, as_labels=True)
    if stored.array.shape[0] != 1:
        advice = "save one integer per voxel"
        if read_segments(path):
            advice = (
                "these are overlapping segments of 3D Slicer: export them as a labelmap, or one file for each class"
            )
        msg = f"{path}: a label map has one channel, found {stored.array.shape[0]}; {advice}"
        raise VolumeError(msg)
    return LabelVolume(array=_to_int32(path, stored.array[0]), grid=stored.grid)


def read_segments(path: Path) -> dict[str, int]:
    """Reads the names and values of the segments that 3D Slicer writes into the header; none in other files."""
    with use_local(path):
        return nrrd.read_segments(path)


def read_picture(path: Path) -> Shaped[np.ndarray, "channel z y x"]:
    """Reads a picture (PNG, BMP, JPEG, TIFF or GIF) with the integers of the file; of a palette, its colours.

    GIF is read here alone: it is no format of a dataset, but some datasets hold masks in it.

    Raises:
        VolumeError: The file is no picture, or cannot be read.
    """
    ending = GIF if path.name.lower().endswith(GIF) and path.is_file() else _check_file(path)
    if ending not in (GIF, *PICTURE_ENDINGS, *TIFF_ENDINGS):
        msg = f"expected a picture, but {path} ends in {ending}"
        raise VolumeError(msg)
    reader = pictures if ending == GIF else READERS[ending]
    with use_local(path), translate_decoder_errors(path):
        return reader.read(path, as_labels=False).array


def read_grid(path: Path) -> Grid:
    """Reads the grid of an image from its header.

    Raises:
        VolumeError: The file cannot be read or its geometry is invalid.
    """
    with use_local(path):
        return _read_grid(path)


def _read_grid(path: Path) -> Grid:
    if is_series_folder(path):
        with _name_folder(path):
            return find_only_stack(path).grid
    ending = _check_file(path)
    with translate_decoder_errors(path), np.errstate(all="ignore"):
        grid = READERS[ending].read_grid(path)
    return check_finite_grid(grid, path)


@contextmanager
def _name_folder(path: Path) -> Iterator[None]:
    try:
        yield
    except VolumeError as error:
        msg = f"{path}: {error}"
        raise VolumeError(msg) from error


def _read(path: Path, *, as_labels: bool) -> StoredVolume:
    with use_local(path):
        return _read_stored(path, as_labels=as_labels)


def _read_stored(path: Path, *, as_labels: bool) -> StoredVolume:
    if is_series_folder(path) and not as_labels:
        with _name_folder(path):
            volume = read_stack(find_only_stack(path))
        return StoredVolume(array=volume.array, grid=volume.grid)
    ending = _check_file(path)
    with translate_decoder_errors(path), np.errstate(all="ignore"):
        stored = READERS[ending].read(path, as_labels=as_labels)
    check_finite_grid(stored.grid, path)
    return stored


def _check_file(path: Path) -> str:
    ending = find_ending(path.name)
    if path.is_dir():
        found = f"is a folder; {FOLDER_ADVICE}"
    elif not path.exists():
        is_link = path.is_symlink()
        found = "is a link to a file that does not exist, or to itself" if is_link else "does not exist"
    elif not path.is_file():
        found = "is a pipe or a device; copy the image into a file"
    elif ending is None:
        found = f"has an ending that cannot be read (readable: {' '.join(READABLE_ENDINGS)}); convert it"
        found += explain_dicom(path)
    elif path.stat().st_size == 0:
        found = "is empty; copy or convert it again"
    else:
        return ending
    msg = f"expected an image file, but {path} {found}"
    raise VolumeError(msg)


def _to_int32(path: Path, array: Shaped[np.ndarray, "z y x"]) -> Int32[np.ndarray, "z y x"]:
    if array.dtype.kind not in "biuf":
        msg = f"{path}: label values must be integers, found {array.dtype}"
        raise VolumeError(msg)
    if array.dtype.kind == "f":
        array = _round_to_integers(path, array)
    limits = np.iinfo(np.int32)
    if array.dtype.itemsize >= limits.dtype.itemsize and (array.min() < limits.min or array.max() > limits.max):
        msg = f"{path}: label values must fit 32 bits, found {array.min()} to {array.max()}; use smaller values"
        raise VolumeError(msg)
    return np.ascontiguousarray(array, dtype=np.int32)


def _round_to_integers(path: Path, array: Shaped[np.ndarray, "z y x"]) -> Shaped[np.ndarray, "z y x"]:
    rounded: Shaped[np.ndarray, "z y x"] = np.rint(array)
    is_integer = np.isfinite(array) & (np.abs(array - np.where(np.isfinite(array), rounded, 0)) <= INTEGER_TOLERANCE)
    count = int(array.size - np.count_nonzero(is_integer))
    if count:
        example = array[~is_integer][0]
        msg = (
            f"{path}: label values must be integers, found {example} and the like in {count} voxels; resample label "
            f"maps with nearest-neighbour interpolation, and save them as integers"
        )
        raise VolumeError(msg)
    return rounded
