"""Checks raw headers of NIfTI, Analyze and MGH, which nibabel silently repairs or believes."""

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np

from autoseg.errors import VolumeError
from autoseg.volume_io.formats.headers.sizes import FLOAT32_BYTES, check_shape, check_size, describe

LOGGER = logging.getLogger(__name__)

LARGEST_SCALE: Final = 1e30  # single precision ends at 3.4e38
SCALED_BYTES: Final = 8  # nibabel scales in double precision
MGH_HEADER_BYTES: Final = 284
MAGIC_OF_ONE_FILE: Final = (b"n+1", b"n+2")


def check_nifti_header(header: Any, path: Path, *, data_path: Path, is_compressed: bool, compares_memory: bool) -> None:
    """Checks dimensions, data type, offset, scaling, size and spacing of NIfTI and Analyze.

    Args:
        header: Header of nibabel, not repaired.
        path: The file with the header.
        data_path: The file with the voxels.
        is_compressed: Whether `data_path` is compressed.
        compares_memory: Whether the voxels are to be read.

    Raises:
        VolumeError: The voxels cannot be read as the header says.
    """
    shape = _find_shape(header, path)
    dtype = _find_dtype(header, path)
    offset = _find_offset(header, path, is_pair=data_path != path)
    is_scaled = _check_scaling(header, path)
    check_size(
        path,
        shape,
        voxel_bytes=dtype.itemsize,
        stored_bytes=data_path.stat().st_size - (0 if is_compressed else offset),
        is_compressed=is_compressed,
        working_bytes=SCALED_BYTES + FLOAT32_BYTES if is_scaled else FLOAT32_BYTES,
        compares_memory=compares_memory,
    )
    _check_raw_spacing(header, path)


def check_mgh_header(header: Any, path: Path, *, is_compressed: bool, compares_memory: bool) -> None:
    """Checks data type and size of MGH.

    Raises:
        VolumeError: The voxels cannot be read as the header says.
    """
    try:
        itemsize = header.get_data_dtype().itemsize
    except (KeyError, ValueError) as error:
        msg = f"{path}: the header tells no known data type (type {header['type']}); convert the file again"
        raise VolumeError(msg) from error
    check_size(
        path,
        [int(extent) for extent in header["dims"]],
        voxel_bytes=itemsize,
        stored_bytes=path.stat().st_size - (0 if is_compressed else MGH_HEADER_BYTES),
        is_compressed=is_compressed,
        compares_memory=compares_memory,
    )


def check_number_type(header: Any, path: Path, *, leftover_bytes: int) -> None:
    """Compares the bits of a voxel with the data type, which are told twice, and with the end of the file.

    Args:
        header: Header of nibabel, not repaired.
        path: The file, for messages.
        leftover_bytes: Bytes that follow the voxels (at least; not all of them are counted).

    Raises:
        VolumeError: They contradict each other, and the length of the file does not tell which is right.
    """
    dtype, bits = _find_dtype(header, path), int(header["bitpix"])
    if bits != dtype.itemsize * 8:
        code = int(header["datatype"])
        text = f"{path}: datatype {code} ({dtype.name}) has {dtype.itemsize * 8} bits, bitpix says {bits}"
        if leftover_bytes:
            msg = (
                f"{text}, and more bytes follow the voxels than either explains: repair the header or convert it again"
            )
            raise VolumeError(msg)
        LOGGER.warning("%s; the length of the file fits the datatype, which is used", text)
    elif leftover_bytes:
        LOGGER.warning(
            "%s: the header promises %s voxels of %d bytes, but at least %d bytes follow them, which are ignored",
            path,
            describe(_find_shape(header, path)),
            dtype.itemsize,
            leftover_bytes,
        )


def _find_shape(header: Any, path: Path) -> list[int]:
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        msg = f"{path}: expected 1 to 7 dimensions, the header says {dimensions}; convert the file again"
        raise VolumeError(msg)
    shape = [int(extent) for extent in header["dim"][1 : 1 + dimensions]]
    check_shape(path, shape)
    return shape


def _find_dtype(header: Any, path: Path) -> np.dtype[Any]:
    code = int(header["datatype"])
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except Exception as error:
        msg = f"{path}: datatype {code} is not known, or not supported here; convert the file again"
        raise VolumeError(msg) from error
    if dtype.itemsize == 0:
        msg = f"{path}: the header tells no data type (datatype {code}); convert the file again"
        raise VolumeError(msg)
    return dtype


def _find_offset(header: Any, path: Path, *, is_pair: bool) -> int:
    offset = float(header["vox_offset"])
    first = 0
    if not is_pair and "magic" in header and header["magic"].item() in MAGIC_OF_ONE_FILE:
        first = header.single_vox_offset
    if not first <= offset < 2**62 or offset != int(offset):
        msg = (
            f"{path}: vox_offset is {offset:g}, but voxels begin at byte {first} or later in such a file; "
            f"set vox_offset (usually {first}) or convert the file again"
        )
        raise VolumeError(msg)
    return int(offset)


def _check_raw_spacing(header: Any, path: Path) -> None:
    if "sform_code" in header and header["sform_code"] > 0:
        return  # the sform defines the spacing, whatever pixdim is
    dimensions = min(int(header["dim"][0]), 3)
    spacing = [float(value) for value in header["pixdim"][1 : 1 + dimensions]]
    if not all(np.isfinite(value) and value != 0 for value in spacing):
        msg = f"{path}: the header has no spacing (pixdim is {spacing}); set pixdim, or write an sform"
        raise VolumeError(msg)


def _check_scaling(header: Any, path: Path) -> bool:
    """Checks slope and intercept; returns whether voxels are scaled (not with a slope of 0 or NaN)."""
    if "scl_slope" not in header:
        return False
    slope = float(header["scl_slope"])
    inter = float(header["scl_inter"]) if "scl_inter" in header else 0.0
    if not np.isfinite(slope) or slope == 0:
        if slope != 0:
            LOGGER.warning("%s: scl_slope is %s; the voxels are taken as they are stored", path, slope)
        return False
    if not abs(slope) <= LARGEST_SCALE or not abs(inter) <= LARGEST_SCALE:
        msg = (
            f"{path}: scl_slope is {slope:g} and scl_inter {inter:g}, at most {LARGEST_SCALE:g} can be meant; correct "
            f"the header or convert the file again"
        )
        raise VolumeError(msg)
    return slope != 1 or inter != 0
