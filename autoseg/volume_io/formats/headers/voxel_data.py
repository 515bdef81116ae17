"""Reads voxels of MetaImage and NRRD as their headers describe them.

ITK fills up what is missing, overlooks what is left, and opens any file that a header names. So the files, their sizes
and the compression are checked here. The usual encodings are read here too; ITK reads the others after the checks.
"""

import math
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Shaped

from autoseg.errors import VolumeError
from autoseg.volume_io.formats.headers.gzip_members import CHUNK_BYTES, GZIP_MAGIC
from autoseg.volume_io.formats.headers.sizes import check_leftover, check_size, describe

Encoding = Literal["raw", "zlib", "gzip", "other"]

LEAST_TEXT_BYTES: Final = 2  # of a number in a text file: a digit and a separator
OUTPUT_BYTES: Final = 2**22
COMPRESSED: Final = ("zlib", "gzip")
USUAL_HEADER_BYTES: Final = 2**16
LARGEST_HEADER_BYTES: Final = 2**24
FILE_LIST: Final = "LIST"  # in place of the name of a file: the names of several follow
FILE_PATTERN: Final = re.compile(r"[^%]*%\d{0,2}d[^%]*")
MOST_FILES: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelData:
    """Where the voxels of a file are, and how they are stored.

    Attributes:
        shape: Extents of all axes of the file, the fastest first.
        dtype: Type of the numbers, with byte order.
        encoding: Encoding of the numbers; "other" is left to ITK.
        files: Files with voxels: one, or one for each slice.
        offset_bytes: Bytes before the voxels; None where they end with the file.
        is_text: Whether the numbers are written as text.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    encoding: Encoding
    files: tuple[Path, ...]
    offset_bytes: int | None
    is_text: bool = False

    @property
    def byte_count(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_start(path: Path, end: re.Pattern[bytes]) -> bytes:
    """Reads a file up to the end of its header, which a pattern matches, or as far as a header may reach."""
    with path.open("rb") as stream:
        start = stream.read(USUAL_HEADER_BYTES)
        if len(start) == USUAL_HEADER_BYTES and end.search(start) is None:
            start += stream.read(LARGEST_HEADER_BYTES - USUAL_HEADER_BYTES)
    return start


def find_data_file(header: Path, name: str) -> Path:
    """Returns the file that a header names for its voxels.

    Raises:
        VolumeError: It is not a regular file in the folder of the header.
    """
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    is_elsewhere = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute() or ".." in parts
    if not name or "\0" in name or is_elsewhere:
        msg = (
            f"{header} names {name!r} for its voxels; only a file in the folder of the header is read: put it there "
            f"and correct the name"
        )
        raise VolumeError(msg)
    path = header.parent / name
    if not path.is_file():
        found = "is not a regular file" if path.exists() else "does not exist"
        msg = f"{header} cannot be read: it names {name!r} for its voxels, which {found} beside it; copy both files"
        raise VolumeError(msg)
    if not path.stat().st_mode & stat.S_IRUSR:  # the superuser could, and would read zeros if it was not fetched
        msg = f"{header} names {name!r} for its voxels, which its owner may not read; permit it"
        raise VolumeError(msg)
    return path


def find_numbered_files(header: Path, name: str, pattern: str, numbers: Sequence[int]) -> tuple[Path, ...]:
    """Returns the files that a header names for its voxels by a pattern and three numbers: first, last, step.

    Raises:
        VolumeError: `name`, the whole entry, does not name files that way, or one is missing.
    """
    first, last, step = numbers
    if not FILE_PATTERN.fullmatch(pattern) or step < 1 or not 0 <= last - first <= MOST_FILES:
        msg = f"{header} names {name!r} for its voxels, which is no pattern of files such as slice%03d.raw 1 20 1"
        raise VolumeError(msg)
    return tuple(find_data_file(header, pattern % index) for index in range(first, last + 1, step))


def check_voxel_data(path: Path, data: VoxelData, *, compares_memory: bool) -> None:
    """Compares the size of the voxels with the files and with memory.

    Raises:
        VolumeError: They do not fit, or the voxels are not compressed although the header says so.
    """
    found = sum(file.stat().st_size for file in data.files) - (data.offset_bytes or 0)
    is_compressed = data.encoding in COMPRESSED or (data.encoding == "other" and not data.is_text)
    check_size(
        path,
        data.shape,
        voxel_bytes=LEAST_TEXT_BYTES if data.is_text else data.dtype.itemsize,
        stored_bytes=found + int(data.is_text),
        is_compressed=is_compressed,
        compares_memory=compares_memory,
    )
    if data.encoding in COMPRESSED and data.offset_bytes is not None:
        _check_compression(path, data, found)


def _check_compression(path: Path, data: VoxelData, found: int) -> None:
    with data.files[0].open("rb") as stream:
        stream.seek(data.offset_bytes or 0)
        start = stream.read(2)
    is_zlib = len(start) == 2 and start[0] & 15 == 8 and int.from_bytes(start, "big") % 31 == 0
    if start == GZIP_MAGIC or (data.encoding == "zlib" and is_zlib):
        return
    raw = ", exactly those of voxels that are not compressed" if found == data.byte_count else ""
    msg = (
        f"{path}: the header says that the voxels are compressed, but they are not ({found} bytes, beginning with "
        f"{start.hex(' ') or 'nothing'}{raw}); correct the header or save the image again"
    )
    raise VolumeError(msg)


def read_voxels(path: Path, data: VoxelData) -> Shaped[np.ndarray, "..."]:
    """Reads all voxels in the order of the file, the slowest axis first.

    Raises:
        VolumeError: There are fewer or more than the header promises.
    """
    array = np.empty(data.shape[::-1], data.dtype)
    view = array.reshape(-1).view(np.uint8).data
    offset = data.offset_bytes
    if offset is None:
        offset = data.files[0].stat().st_size - data.byte_count
    with data.files[0].open("rb") as stream:
        stream.seek(offset)
        if data.encoding == "raw":
            count = stream.readinto(view)
            leftover = data.files[0].stat().st_size - offset - count
        else:
            count, leftover = _inflate(path, stream, view)
    if count < len(view):
        msg = (
            f"{path} cannot be read: expected {len(view)} bytes of voxels ({describe(data.shape)}), found {count}; the "
            f"file is damaged or cut off: copy it again"
        )
        raise VolumeError(msg)
    check_leftover(path, data.shape, voxel_bytes=data.dtype.itemsize, leftover_bytes=leftover)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _inflate(path: Path, stream: Any, view: memoryview) -> tuple[int, int]:
    """Decompresses into a buffer; returns the bytes written, and those that were left over (at most a chunk)."""
    from isal import igzip_lib

    start = stream.read(len(GZIP_MAGIC))
    stream.seek(-len(start), 1)
    is_gzip = start == GZIP_MAGIC
    inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP if is_gzip else igzip_lib.DECOMP_ZLIB)
    position = leftover = 0
    while not inflater.eof and not leftover:
        piece = stream.read(CHUNK_BYTES) if inflater.needs_input else b""
        if inflater.needs_input and not piece:
            break
        made = inflater.decompress(piece, OUTPUT_BYTES)
        kept = min(len(made), len(view) - position)
        view[position : position + kept] = made[:kept]
        position, leftover = position + kept, len(made) - kept
    if position == len(view) and not inflater.eof and not leftover:
        msg = f"{path} cannot be read: the compressed voxels are cut off before their checksum; copy it again"
        raise VolumeError(msg)
    return position, leftover


def parse_integers(path: Path, key: str, text: str, *, count: int | None = None) -> tuple[int, ...]:
    """Parses the integers of a field.

    Raises:
        VolumeError: They are no integers, or not as many as expected.
    """
    return tuple(int(value) for value in _parse(path, key, text, count=count, convert=_to_int))


def parse_numbers(path: Path, key: str, text: str, *, count: int | None = None) -> tuple[float, ...]:
    """Parses the numbers of a field.

    Raises:
        VolumeError: They are no numbers, or not as many as expected.
    """
    return tuple(_parse(path, key, text, count=count, convert=float))


def _to_int(text: str) -> int:
    if len(text) > 20:
        raise ValueError(text)
    return int(text)


def _parse(path: Path, key: str, text: str, *, count: int | None, convert: Any) -> Sequence[Any]:
    words = text.split()
    try:
        values = [convert(word) for word in words]
    except (ValueError, OverflowError):
        values = []
    if not values or (count is not None and len(values) != count):
        expected = "numbers" if count is None else f"{count} {'number' if count == 1 else 'numbers'}"
        msg = f"{path}: expected {expected} for {key}, found {text.strip()[:80]!r}; repair the header"
        raise VolumeError(msg)
    return values
