"""Reads headers of MetaImage (.mha, .mhd).

ITK's parser writes past its fixed arrays where a header asks for it (more than 10 dimensions, long lines), and takes
whatever stands in a field for a number. So every field that it interprets is checked here first, more strictly.
"""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from autoseg.errors import VolumeError
from autoseg.geometry import SINGULAR_DETERMINANT
from autoseg.volume_io.formats.headers.voxel_data import (
    FILE_LIST,
    Encoding,
    VoxelData,
    find_data_file,
    find_numbered_files,
    parse_integers,
    parse_numbers,
    read_start,
)

LOGGER = logging.getLogger(__name__)

LAST_LINE: Final = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][^\n]*(?:\n|\Z)", re.MULTILINE)
LOCAL: Final = ("LOCAL", "Local", "local")
TYPES: Final = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
LONGEST_KEY: Final = 100
LONGEST_TEXT: Final = 500  # of a field that ITK keeps as text, in a buffer of fixed length
MOST_DIMENSIONS: Final = 4
MOST_CHANNELS: Final = 4096
NUMBERS_PER_AXIS: Final = ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
PLACES: Final = ("Offset", "Position", "Origin")
MATRICES: Final = ("TransformMatrix", "Rotation", "Orientation")
SINGLE_NUMBERS: Final = (
    "ElementMin",
    "ElementMax",
    "ElementToIntensityFunctionSlope",
    "ElementToIntensityFunctionOffset",
)
SINGLE_INTEGERS: Final = (
    "NDims",
    "HeaderSize",
    "HeaderSizePerSlice",
    "CompressedDataSize",
    "CompressionLevel",
    "ElementNumberOfChannels",
    "ElementNBits",
    "ID",
    "ParentID",
)
SWITCHES: Final = ("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData")
LINE: Final = re.compile(r"\s*(?P<key>[^\s=:][^=:]*?)\s*[=:](?P<value>.*)")


def read_header(path: Path) -> VoxelData:
    """Reads and checks a header.

    Raises:
        VolumeError: It is invalid, or names voxels elsewhere.
    """
    start = read_start(path, LAST_LINE)
    fields, end, rest = _parse_fields(path, start)
    dimensions = _check_fields(path, fields)
    _check_spacing(path, fields)
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    shape = parse_integers(path, "DimSize", fields["DimSize"], count=dimensions)
    files, is_single = _find_files(path, fields, rest)
    return VoxelData(
        shape=(channels, *shape) if channels > 1 else shape,
        dtype=_find_type(path, fields),
        encoding=_find_encoding(fields) if is_single else "other",
        files=files,
        offset_bytes=end if files == (path,) else _find_offset(fields),
        is_text=not _is_on(fields, "BinaryData"),
    )


def _parse_fields(path: Path, start: bytes) -> tuple[dict[str, str], int, str]:
    """Returns the fields, the length of the header, and the lines after it, which may list files."""
    match = LAST_LINE.search(start)
    if match is None:
        msg = f"{path} cannot be read: it has no MetaImage header (no line ElementDataFile); convert it again"
        raise VolumeError(msg)
    fields: dict[str, str] = {}
    for line in start[: match.end()].decode("latin-1").split("\n"):
        found = LINE.fullmatch(line.removesuffix("\r"))
        if found is None:
            if not line.strip():
                continue
            msg = f"{path}: expected 'key = value' in the header, found {line[:80]!r}; repair it"
            raise VolumeError(msg)
        key, value = found["key"], found["value"].strip()
        if key in fields or len(key) > LONGEST_KEY:
            what = "stands twice" if key in fields else "is too long"
            msg = f"{path}: the field {key[:80]!r} of the header {what}; repair it"
            raise VolumeError(msg)
        fields[key] = value
    return fields, match.end(), start[match.end() :].decode("latin-1")


def _check_fields(path: Path, fields: Mapping[str, str]) -> int:
    """Checks every field that ITK interprets; returns the number of dimensions."""
    missing = [key for key in ("NDims", "DimSize", "ElementType") if key not in fields]
    if missing:
        msg = f"{path} cannot be read: its header lacks {', '.join(missing)}; convert it again"
        raise VolumeError(msg)
    integers = {key: parse_integers(path, key, fields[key], count=1)[0] for key in SINGLE_INTEGERS if key in fields}
    dimensions = integers["NDims"]
    _check_range(path, "NDims", dimensions, least=2, most=MOST_DIMENSIONS)
    _check_range(
        path, "ElementNumberOfChannels", integers.get("ElementNumberOfChannels", 1), least=1, most=MOST_CHANNELS
    )
    _check_range(path, "HeaderSize", integers.get("HeaderSize", 0), least=-1, most=2**40)
    for key in ("HeaderSizePerSlice", "CompressedDataSize"):
        _check_range(path, key, integers.get(key, 0), least=0, most=2**62)
    for key in (*NUMBERS_PER_AXIS, *MATRICES, *SINGLE_NUMBERS):
        if key in fields:
            count = 1 if key in SINGLE_NUMBERS else dimensions ** (2 if key in MATRICES else 1)
            numbers = parse_numbers(path, key, fields[key], count=count)
            _check_numbers(path, key, numbers)
    keys = list(fields)
    for key in ("DimSize", *NUMBERS_PER_AXIS, *MATRICES):
        if key in fields and keys.index(key) < keys.index("NDims"):
            msg = f"{path}: {key} stands before NDims in the header, on which it depends; write NDims first"
            raise VolumeError(msg)
    _check_texts(path, fields)
    return dimensions


def _check_numbers(path: Path, key: str, numbers: tuple[float, ...]) -> None:
    """Checks for places and axes that ITK replaces silently."""
    if key in PLACES and not np.isfinite(numbers).all():
        msg = f"{path}: {key} must be finite, found {numbers}; repair the header"
        raise VolumeError(msg)
    if key in MATRICES:
        matrix = np.reshape(numbers, (math.isqrt(len(numbers)), -1))
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        with np.errstate(all="ignore"):
            determinant = abs(np.linalg.det(matrix / lengths))
        if not determinant > SINGULAR_DETERMINANT:
            msg = f"{path}: {key} maps the image onto a plane: {numbers}; repair the header"
            raise VolumeError(msg)


def _check_range(path: Path, key: str, value: int, *, least: int, most: int) -> None:
    if not least <= value <= most:
        msg = f"{path}: {key} must be {least} to {most}, found {value}; repair the header or convert the file again"
        raise VolumeError(msg)


def _check_texts(path: Path, fields: Mapping[str, str]) -> None:
    for key, value in fields.items():
        if len(value) > LONGEST_TEXT:
            msg = (
                f"{path}: {key} has {len(value)} characters in the header, at most {LONGEST_TEXT} are read; shorten it"
            )
            raise VolumeError(msg)
        if key in SWITCHES and value.lower() not in ("true", "false", "t", "f", "1", "0"):
            msg = f"{path}: expected True or False for {key}, found {value[:80]!r}; repair the header"
            raise VolumeError(msg)


def _check_spacing(path: Path, fields: Mapping[str, str]) -> None:
    """Checks for spacings that ITK misreads: it reads 0 as 1, and a negative one as 1e16."""
    key = next((key for key in ("ElementSpacing", "ElementSize") if key in fields), None)
    if key is None:
        LOGGER.warning("%s: the header has no ElementSpacing; 1 mm is assumed", path)
    elif not all(0 < value < np.inf for value in parse_numbers(path, key, fields[key])):
        msg = f"{path}: spacing must be positive, found {key} = {fields[key]}; repair the header"
        raise VolumeError(msg)


def _is_on(fields: Mapping[str, str], key: str) -> bool:
    return fields.get(key, "True" if key == "BinaryData" else "False")[:1] in "Tt1"


def _find_type(path: Path, fields: Mapping[str, str]) -> np.dtype[np.generic]:
    name = fields["ElementType"]
    code = TYPES.get(name.removesuffix("_ARRAY"))
    if code is None:
        msg = f"{path}: ElementType must be one of {', '.join(TYPES)}, found {name[:80]!r}; convert the file again"
        raise VolumeError(msg)
    is_big = any(_is_on(fields, key) for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    return np.dtype(code).newbyteorder(">" if is_big else "<")


def _find_encoding(fields: Mapping[str, str]) -> Encoding:
    if not _is_on(fields, "BinaryData") or int(fields.get("HeaderSizePerSlice", "0")):
        return "other"
    return "zlib" if _is_on(fields, "CompressedData") else "raw"


def _find_offset(fields: Mapping[str, str]) -> int | None:
    size = int(fields.get("HeaderSize", "0"))
    return None if size == -1 else size


def _find_files(path: Path, fields: Mapping[str, str], rest: str) -> tuple[tuple[Path, ...], bool]:
    """Returns the files with voxels, and whether they are all in one."""
    name = fields["ElementDataFile"]
    if name in LOCAL:
        return (path,), True
    if name.startswith(FILE_LIST):
        listed = [line.strip() for line in rest.split("\n") if line.strip()]
        return tuple(find_data_file(path, line) for line in listed), False
    if "%" not in name:
        return (find_data_file(path, name),), True
    pattern, *steps = name.split()
    numbers = (*(parse_integers(path, "ElementDataFile", text, count=1)[0] for text in steps), 1, 1, 1)[:3]
    return find_numbered_files(path, name, pattern, numbers), False
