"""Reads what one DICOM file says of its series, its slice and its place; nothing of the patient.

Images are opened by GDCM in the process that may die. What is no image is told by the file's meta information
(DICOM PS3.10 7.1), which every object has in the same encoding, whatever the rest of the file is.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoseg.dicom_files import MAGIC, PREAMBLE_BYTES
from autoseg.errors import VolumeError
from autoseg.geometry import FloatTriple, make_triple
from autoseg.volume_io.formats import dicom
from autoseg.volume_io.formats.dicom_positions import parse_numbers
from autoseg.volume_io.formats.reader_process import IsolatedReader
from autoseg.volume_io.formats.volumes import translate_decoder_errors

READER: Final = IsolatedReader(dicom.__name__)
META_BYTES: Final = 2**16  # far more than the meta information takes
CLASS_ELEMENT: Final = re.compile(rb"\x02\x00\x02\x00UI(?P<length>..)", re.DOTALL)
UID: Final = re.compile(r"[0-9.]{1,64}")
NUMBER: Final = re.compile(r"[+-]?[0-9]{1,11}")
MODALITY: Final = re.compile(r"[A-Z0-9_]{1,16}")
STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
OBJECTS: Final = {
    "1.2.840.10008.1.3.10": "directory (DICOMDIR)",
    f"{STORAGE}11.": "presentation state",
    f"{STORAGE}66.1": "registration",
    f"{STORAGE}66.3": "registration",
    f"{STORAGE}66.4": "segmentation",
    f"{STORAGE}66.5": "segmentation",
    f"{STORAGE}66.7": "segmentation",
    f"{STORAGE}67": "map of real-world values",
    f"{STORAGE}66": "raw data",
    f"{STORAGE}88.": "report or key object",
    f"{STORAGE}104.": "encapsulated document",
    f"{STORAGE}481.2": "dose",
    f"{STORAGE}481.3": "structure set",
    f"{STORAGE}481.": "object of radiotherapy",
    f"{STORAGE}9.": "waveform",
}
"""SOP classes (PS3.4 B.5), by their beginnings, of what has no voxels of a patient, or none with grey values."""

Orientation = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceHeader:
    """The header of one image file: one slice, or all frames of a multi-frame object.

    Attributes:
        series: UID of the series; `study` and `instance` are those of its study and of the file.
        series_number: Number as text; empty if there is none, like `description`.
        instance_number: Number as text.
        modality: CT, MR, ...
        image_type: Values of ImageType, such as ORIGINAL, PRIMARY, AXIAL.
        frame_count: Number of frames.
        component_count: 1 for grey values, 3 for colours.
        is_inverted: Whether the lowest grey value is shown white, so that ITK inverts them.
        shape_yx: Rows and columns.
        spacing_mm_yx: Distance of rows and of columns; None if it has none, like the place.
        step_mm: Distance to the next slice as the header gives it, else the thickness; None if it tells neither.
        position_mm: Centre of the first voxel in DICOM's world (L, P, S).
        orientation: Unit vectors along a row and along a column.
    """

    path: Path
    series: str
    study: str
    instance: str
    series_number: str
    description: str
    instance_number: str
    modality: str
    image_type: tuple[str, ...]
    frame_count: int
    component_count: int
    is_inverted: bool
    shape_yx: tuple[int, int]
    spacing_mm_yx: tuple[float, float] | None
    step_mm: float | None
    position_mm: FloatTriple | None
    orientation: Orientation | None


def find_object_kind(path: Path) -> str | None:
    """Returns what a DICOM file is if it is no image, such as "structure set"; None for images and what may be one."""
    try:
        with path.open("rb") as stream:
            content = stream.read(META_BYTES)
    except OSError:
        return None
    start = PREAMBLE_BYTES + len(MAGIC)
    match = CLASS_ELEMENT.search(content, start) if content[PREAMBLE_BYTES:start] == MAGIC else None
    if match is None:
        return None
    length = int.from_bytes(match["length"], "little")
    sop_class = content[match.end() : match.end() + length].rstrip(b"\0 ").decode("ascii", "replace")
    exact = OBJECTS.get(sop_class)
    beginnings = (
        kind for beginning, kind in OBJECTS.items() if beginning[-1] == "." and sop_class.startswith(beginning)
    )
    return exact or next(beginnings, None)


def read_slice_header(path: Path) -> SliceHeader:
    """Reads the header of an image file.

    Raises:
        VolumeError: It cannot be read, or does not tell its series.
    """
    with translate_decoder_errors(path):
        tags = {tag: value.strip("\0 ") for tag, value in READER.read_tags(path).items()}
        return _parse(path, tags)


def _parse(path: Path, tags: dict[str, str]) -> SliceHeader:
    if not all(UID.fullmatch(tags[tag]) for tag in (dicom.SERIES, dicom.INSTANCE)):
        msg = f"{path}: expected identifiers (UIDs) of digits and dots for series and instance; restore the header"
        raise VolumeError(msg)
    spacing, position, orientation = (
        parse_numbers(tags[tag], name, count)
        for tag, name, count in (
            (dicom.SPACING, "PixelSpacing", 2),
            (dicom.POSITION, "ImagePositionPatient", 3),
            (dicom.ORIENTATION, "ImageOrientationPatient", 6),
        )
    )
    return SliceHeader(
        path=path,
        series=tags[dicom.SERIES],
        study=_keep(tags[dicom.STUDY], UID),
        instance=tags[dicom.INSTANCE],
        series_number=_keep(tags[dicom.SERIES_NUMBER], NUMBER),
        description=_decode(tags[dicom.DESCRIPTION]),
        instance_number=_keep(tags[dicom.INSTANCE_NUMBER], NUMBER),
        modality=_keep(tags[dicom.MODALITY], MODALITY),
        image_type=tuple(part.strip().upper() for part in tags[dicom.IMAGE_TYPE].split("\\")),
        frame_count=int(tags[dicom.FRAME_COUNT] or 1),
        component_count=int(tags["components"]),
        is_inverted=tags[dicom.PHOTOMETRIC] == dicom.INVERTED,
        shape_yx=(int(tags[dicom.ROWS]), int(tags[dicom.COLUMNS])),
        spacing_mm_yx=None if spacing is None else (spacing[0], spacing[1]),
        step_mm=_find_length(tags[dicom.SLICE_DISTANCE]) or _find_length(tags[dicom.THICKNESS]),
        position_mm=None if position is None else make_triple(position),
        orientation=None if orientation is None else (*make_triple(orientation[:3]), *make_triple(orientation[3:])),
    )


def _keep(text: str, pattern: re.Pattern[str]) -> str:
    """Returns a text of the expected form, else an empty one, as messages repeat it."""
    return text if pattern.fullmatch(text) else ""


def _decode(text: str) -> str:
    """Decodes what ITK passes on as bytes: Unicode, or Latin-1 as most scanners of the West write it."""
    content = text.encode("utf-8", "surrogateescape")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _find_length(text: str) -> float | None:
    """Parses a positive length; None if there is none, as the place of slices tells their distance, too."""
    try:
        length = float(text)
    except ValueError:
        return None
    return length if 0 < length < math.inf else None
