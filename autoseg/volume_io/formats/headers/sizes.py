"""Compares the voxels that a header promises with the file and with memory, before they are read."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from autoseg.errors import VolumeError
from autoseg.runtime.host_memory import find_available_ram

LOGGER = logging.getLogger(__name__)

LARGEST_EXPANSION: Final = 1032  # of DEFLATE: 258 bytes from 2 bits
SMALLEST_COMPRESSED_BYTES: Final = 2**16  # headers and blocks of tiny files, which expand to less than that
UNLIMITED_BYTES: Final = 2**31  # twice a whole-body CT of 512 x 512 x 2000 as int16, whose label map may be empty
USUAL_EXPANSION: Final = 500  # label maps of a whole body reach 400, images 10
UNCHECKED_BYTES: Final = 2**26
FLOAT32_BYTES: Final = 4
MOST_VOXELS_ALONG_AXIS: Final = 2**31


def check_shape(path: Path | str, shape: Sequence[int]) -> int:
    """Checks the extents that a header tells, in any order; returns the number of voxels.

    Raises:
        VolumeError: An extent is below 1 or cannot be meant.
    """
    if not shape or min(shape) < 1 or max(shape) > MOST_VOXELS_ALONG_AXIS:
        msg = f"{path}: expected extents of 1 to {MOST_VOXELS_ALONG_AXIS}, the header says {describe(shape)}; repair it"
        raise VolumeError(msg)
    return math.prod(shape)


def check_size(
    path: Path | str,
    shape: Sequence[int],
    *,
    voxel_bytes: int,
    stored_bytes: int | None,
    is_compressed: bool,
    working_bytes: int = FLOAT32_BYTES,
    compares_memory: bool = True,
) -> None:
    """Checks that the voxels can be in the file, and fit into memory.

    Args:
        path: The file, for messages.
        shape: Extents along all axes, channels included.
        voxel_bytes: Bytes of a voxel in the file.
        stored_bytes: Bytes of the file after the header; None if any number can expand to any number of voxels.
        is_compressed: Whether the voxels are compressed.
        working_bytes: Further bytes of a voxel in memory while it is converted.
        compares_memory: Whether the voxels are to be read, so that memory counts.

    Raises:
        VolumeError: They cannot.
    """
    voxels = check_shape(path, shape)
    promised = voxels * voxel_bytes
    if stored_bytes is not None:
        _check_stored_bytes(path, shape, voxel_bytes, stored_bytes=stored_bytes, is_compressed=is_compressed)
        if is_compressed and promised > UNLIMITED_BYTES:
            _check_expansion(path, shape, promised, stored_bytes)
    needed = voxels * (voxel_bytes + working_bytes)
    if compares_memory and needed > UNCHECKED_BYTES:
        _check_memory(path, shape, needed)


def _check_stored_bytes(
    path: Path | str, shape: Sequence[int], voxel_bytes: int, *, stored_bytes: int, is_compressed: bool
) -> None:
    promised = math.prod(shape) * voxel_bytes
    largest = LARGEST_EXPANSION * stored_bytes + SMALLEST_COMPRESSED_BYTES if is_compressed else stored_bytes
    if promised > largest:
        compressed = f", which cannot expand to more than {largest}" if is_compressed else ""
        msg = (
            f"{path} cannot be read: the header promises {describe(shape)} voxels of {voxel_bytes} bytes, {promised} "
            f"bytes in all, but the file has {max(stored_bytes, 0)} for them{compressed}; it is cut off, or the "
            f"header is wrong: copy or convert it again"
        )
        raise VolumeError(msg)


def _check_expansion(path: Path | str, shape: Sequence[int], promised: int, stored_bytes: int) -> None:
    if promised > USUAL_EXPANSION * stored_bytes:
        msg = (
            f"{path}: {stored_bytes} compressed bytes would expand to {promised} ({describe(shape)} voxels), "
            f"{promised // stored_bytes} times as many, which is not expected of an image of that size (limit: "
            f"{USUAL_EXPANSION} times); if it is right, save it without compression, label maps as 8-bit integers"
        )
        raise VolumeError(msg)


def _check_memory(path: Path | str, shape: Sequence[int], needed: int) -> None:
    usable = find_available_ram()  # not what is free: another case may give its memory back in a moment
    if needed > usable:
        msg = (
            f"{path}: {describe(shape)} voxels need {needed / 2**30:.3g} GiB of memory to be read, this process may "
            f"use {usable / 2**30:.3g} GiB; crop the image, raise the limit of the container or job if there is one, "
            f"or use a machine with more"
        )
        raise VolumeError(msg)


def check_leftover(path: Path, shape: Sequence[int], *, voxel_bytes: int, leftover_bytes: int) -> None:
    """Checks what follows the voxels: less than one row is a warning.

    Args:
        path: The file that holds the voxels.
        shape: Extents in the order of the header, the fastest first.
        voxel_bytes: Bytes of a voxel in the file.
        leftover_bytes: Bytes after the last voxel.

    Raises:
        VolumeError: It is a row or more: the extents are smaller than the image.
    """
    if leftover_bytes <= 0:
        return
    text = (
        f"{path}: the header promises {describe(shape)} voxels of {voxel_bytes} bytes, "
        f"{math.prod(shape) * voxel_bytes} bytes in all, but {leftover_bytes} bytes follow them"
    )
    if leftover_bytes >= shape[0] * voxel_bytes:
        msg = f"{text}; extents or data type are wrong, so that every voxel would be misplaced: repair the header"
        raise VolumeError(msg)
    LOGGER.warning("%s, which are ignored", text)


def describe(shape: Sequence[int]) -> str:
    """Describes extents for messages."""
    return " x ".join(str(extent) for extent in shape)
