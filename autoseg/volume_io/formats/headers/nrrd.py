"""Reads headers of NRRD (.nrrd, .nhdr), as in https://teem.sourceforge.net/nrrd/format.html."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from autoseg.errors import VolumeError
from autoseg.volume_io.formats.headers.voxel_data import (
    FILE_LIST,
    FILE_PATTERN,
    Encoding,
    VoxelData,
    find_data_file,
    find_numbered_files,
    parse_integers,
    parse_numbers,
    read_start,
)

LOGGER = logging.getLogger(__name__)

MAGIC: Final = re.compile(rb"NRRD000[1-6]\r?\n")
END: Final = re.compile(rb"\r?\n\r?\n")
ENCODINGS: Final[dict[str, Encoding]] = {
    "raw": "raw",
    "gz": "gzip",
    "gzip": "gzip",
    "ascii": "other",
    "txt": "other",
    "text": "other",
    "hex": "other",
}
TEXT_ENCODINGS: Final = ("ascii", "txt", "text", "hex")
TYPES: Final = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
CODES: Final = {name: code for code, names in TYPES.items() for name in names}
ALIASES: Final = {
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
}
MOST_AXES: Final = 5
SEGMENT_NAME: Final = re.compile(r"^Segment(\d+)_Name:=(.*)$", re.MULTILINE)
SEGMENT_VALUE: Final = re.compile(r"^Segment(\d+)_LabelValue:=(\d{1,9})\s*$", re.MULTILINE)
VECTOR: Final = re.compile(r"\(([^()]*)\)|none", re.IGNORECASE)


def read_header(path: Path) -> VoxelData:
    """Reads and checks a header.

    Raises:
        VolumeError: It is invalid, or names voxels elsewhere.
    """
    start = read_start(path, END)
    if not MAGIC.match(start):
        msg = f"{path} cannot be read: it does not begin like a NRRD file (NRRD0001 to NRRD0006); convert it again"
        raise VolumeError(msg)
    end = END.search(start)
    text = start if end is None else start[: end.start()]
    fields = _parse_fields(path, text.decode("latin-1"))
    shape = _check_fields(path, fields)
    listed = "" if end is None else start[end.end() :].decode("latin-1")
    files, is_single = _find_files(path, fields, text.decode("latin-1") + "\n" + listed)
    if files == (path,) and end is None:
        msg = f"{path} cannot be read: the empty line that ends the header is missing; copy or convert it again"
        raise VolumeError(msg)
    encoding = ENCODINGS[fields["encoding"]]
    skip = _find_skip(path, fields)
    is_simple = is_single and not int(fields.get("line skip", "0")) and (skip == 0 or encoding == "raw")
    offset = end.end() if files == (path,) and end is not None else 0
    return VoxelData(
        shape=shape,
        dtype=np.dtype(CODES[fields["type"]]).newbyteorder(">" if fields.get("endian") == "big" else "<"),
        encoding=encoding if is_simple else "other",
        files=files,
        offset_bytes=None if skip == -1 else offset + skip,
        is_text=fields["encoding"] in TEXT_ENCODINGS,
    )


def read_segments(path: Path) -> dict[str, int]:
    """Reads the names and values of the segments that 3D Slicer writes into the header; none in other files.

    Segments of several layers, which overlap, may share values; the channels tell them apart, not this.
    """
    if not path.name.lower().endswith((".nrrd", ".nhdr")):
        return {}
    text = read_start(path, END)
    end = END.search(text)
    header = text[: end.start() if end else 0].decode("utf-8", errors="replace")
    names = {number: name.strip() for number, name in SEGMENT_NAME.findall(header)}
    values = {number: int(value) for number, value in SEGMENT_VALUE.findall(header)}
    return {name: values[number] for number, name in names.items() if number in values}


def _parse_fields(path: Path, text: str) -> dict[str, str]:
    """Returns the fields by lower-case name; comments, and keys with free values (":="), are left out."""
    fields: dict[str, str] = {}
    for line in text.split("\n")[1:]:
        line = line.removesuffix("\r")
        key, separator, value = line.partition(":")
        if line.startswith("#") or value.startswith("=") or not line.strip():
            continue
        key = ALIASES.get(key.strip().lower(), key.strip().lower())
        if not separator or key in fields:
            what = "stands twice" if separator else "is no 'field: value'"
            msg = f"{path}: the line {line[:80]!r} of the header {what}; repair it"
            raise VolumeError(msg)
        fields[key] = value.strip()
        if key == "data file" and fields[key].startswith(FILE_LIST):
            break  # the names of the files follow
    return fields


def _check_fields(path: Path, fields: Mapping[str, str]) -> tuple[int, ...]:
    """Checks every field that ITK interprets; returns the extents."""
    missing = [key for key in ("type", "dimension", "sizes", "encoding") if key not in fields]
    if missing:
        msg = f"{path} cannot be read: its header lacks {', '.join(missing)}; convert it again"
        raise VolumeError(msg)
    for key, known in (("type", CODES), ("encoding", ENCODINGS)):
        if fields[key] not in known:
            msg = f"{path}: {key} must be one of {', '.join(known)}, found {fields[key][:80]!r}; convert the file again"
            raise VolumeError(msg)
    (dimension,) = parse_integers(path, "dimension", fields["dimension"], count=1)
    if not 2 <= dimension <= MOST_AXES:
        msg = f"{path}: dimension must be 2 to {MOST_AXES}, found {dimension}; split or convert the file"
        raise VolumeError(msg)
    for key in ("spacings", "thicknesses", "axis mins", "axis maxs"):
        if key in fields:
            parse_numbers(path, key, fields[key], count=dimension)
    _check_vectors(path, fields, dimension)
    if np.dtype(CODES[fields["type"]]).itemsize > 1 and fields["encoding"] not in TEXT_ENCODINGS:
        _check_endian(path, fields)
    _check_spacing(path, fields)
    return parse_integers(path, "sizes", fields["sizes"], count=dimension)


def _check_endian(path: Path, fields: Mapping[str, str]) -> None:
    if fields.get("endian") not in ("little", "big"):
        msg = f"{path}: endian must be little or big, found {fields.get('endian', 'none')[:80]!r}; repair the header"
        raise VolumeError(msg)


def _check_vectors(path: Path, fields: Mapping[str, str], dimension: int) -> None:
    """Checks the number and the length of vectors, which ITK copies into arrays of fixed length."""
    for key, count in (("space directions", dimension), ("space origin", 1)):
        if key not in fields:
            continue
        vectors = [match[1] for match in VECTOR.finditer(fields[key])]
        if len(vectors) != count or VECTOR.sub("", fields[key]).strip():
            msg = f"{path}: expected {count} vectors such as (1,0,0) for {key}, found {fields[key][:80]!r}; repair it"
            raise VolumeError(msg)
        numbers = [parse_numbers(path, key, vector.replace(",", " ")) for vector in vectors if vector is not None]
        if len({len(vector) for vector in numbers}) > 1 or any(len(vector) > MOST_AXES for vector in numbers):
            msg = (
                f"{path}: expected vectors of the same length for {key}, found {fields[key][:80]!r}; repair the header"
            )
            raise VolumeError(msg)


def _check_spacing(path: Path, fields: Mapping[str, str]) -> None:
    """Checks for missing spacings, which ITK reads as 1."""
    if "spacings" not in fields and "space directions" not in fields:
        LOGGER.warning("%s: the header has neither spacings nor space directions; 1 mm is assumed", path)
    elif "spacings" in fields and not np.isfinite(parse_numbers(path, "spacings", fields["spacings"])).all():
        msg = f"{path}: spacing must be a number, found spacings: {fields['spacings']}; repair the header"
        raise VolumeError(msg)


def _find_skip(path: Path, fields: Mapping[str, str]) -> int:
    for key in ("line skip", "byte skip"):
        if key in fields:
            (skip,) = parse_integers(path, key, fields[key], count=1)
            if not (-1 if key == "byte skip" else 0) <= skip <= 2**40:
                msg = f"{path}: {key} must be a number of lines or bytes, found {skip}; repair the header"
                raise VolumeError(msg)
    return int(fields.get("byte skip", "0"))


def _find_files(path: Path, fields: Mapping[str, str], text: str) -> tuple[tuple[Path, ...], bool]:
    """Returns the files with voxels, and whether they are all in one."""
    name = fields.get("data file")
    if name is None:
        return (path,), True
    if name.startswith(FILE_LIST):
        lines = text.split("\n")
        first = next(index for index, line in enumerate(lines) if re.match(r"data ?file:", line, re.IGNORECASE))
        listed = [line.strip() for line in lines[first + 1 :] if line.strip()]
        return tuple(find_data_file(path, line) for line in listed), False
    pattern, *steps = name.split()
    if not FILE_PATTERN.fullmatch(pattern) or len(steps) not in (3, 4):
        return (find_data_file(path, name),), True
    numbers = tuple(parse_integers(path, "data file", number, count=1)[0] for number in steps[:3])
    return find_numbered_files(path, name, pattern, numbers), False
