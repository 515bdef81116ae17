"""Reads where the frames of a multi-frame DICOM file lie, from the bytes of its header.

ITK reports a spacing of the frames, but neither whether they are in the order of their positions nor whether one is
missing; of frames in another order it does not even tell the pixel spacing. Messages here do not name the file, as its
path may hold the name of a patient; the caller does where it may.
"""

import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64

from autoseg.errors import VolumeError
from autoseg.volume_io.formats.dicom_positions import (
    ORIENTATION_TOLERANCE,
    ROUNDED_SPACING,
    SliceOrder,
    arrange_slices,
    compute_normal,
    explain_orientation,
    explain_spacing,
)

ADVICE: Final = "convert it with dcm2niix"
PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"

# A sequence of one item, whose first element is wanted: tag, (SQ), length, item tag, length, tag, (DS), length, value.
# DICOM PS3.3 C.7.6.16.2.3 (Plane Position) and C.7.6.16.2.4 (Plane Orientation); PS3.5 7.1 (explicit, implicit VR).
FRAME_GEOMETRY: Final = re.compile(
    rb"\x20\x00(?:(?P<position>\x13)|\x16)\x91(?:SQ\x00\x00)?.{4}\xfe\xff\x00\xe0.{4}"
    rb"\x20\x00(?(position)\x32|\x37)\x00(?:DS(?P<explicit>..)|(?P<implicit>..)\x00\x00)",
    re.DOTALL,
)
# Spacing in the item of the Pixel Measures Sequence, behind thickness and distance of slices: C.7.6.16.2.1.
FRAME_SPACING: Final = re.compile(
    rb"\x28\x00\x10\x91(?:SQ\x00\x00)?.{4}\xfe\xff\x00\xe0.{0,100}?"
    rb"\x28\x00\x30\x00(?:DS(?P<explicit>..)|(?P<implicit>..)\x00\x00)",
    re.DOTALL,
)
FRAME_RESCALE: Final = re.compile(
    rb"\x28\x00(?P<tag>[\x52\x53])\x10(?:DS(?P<explicit>..)|(?P<implicit>..)\x00\x00)", re.DOTALL
)
"""Intercept and slope of a frame: DICOM PS3.3 C.7.6.16.2.9 (Pixel Value Transformation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Frames of a file, in its order, in DICOM's world (L, P, S).

    Attributes:
        positions_mm: Centre of the first voxel of every frame.
        orientation: Unit vectors along a row and along a column.
        normal: Unit vector across the frames, along which they are read.
        spacing_mm_yx: Distance of rows and of columns; None if the header does not tell it for frames.
    """

    positions_mm: Float64[np.ndarray, "frame 3"]
    orientation: Float64[np.ndarray, "6"]
    normal: Float64[np.ndarray, "3"]
    spacing_mm_yx: tuple[float, float] | None

    def arrange(self, *, pixel_mm: float) -> SliceOrder:
        """Sorts the frames by position.

        Raises:
            VolumeError: They are no volume: expected, found, and what to do.
        """
        return arrange_slices(self.positions_mm, self.normal, pixel_mm=pixel_mm, name=_name_frames)


def read_frames(path: Path, count: int) -> Frames:
    """Reads positions, orientation and pixel spacing of all frames.

    Frames that lie in the opposite order of the normal keep it, as do label maps that were made of such a file.

    Raises:
        VolumeError: The header does not tell them, or frames are tilted against each other, or differ in spacing or
            rescaling.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        positions_mm, orientations = _read_geometry(content, count)
        if np.ptp(orientations, axis=0).max() > ORIENTATION_TOLERANCE:
            msg = f"its frames are tilted against each other, so they are no volume; {ADVICE}"
            raise VolumeError(msg)
        spacing = _read_spacing(content)
        _check_rescaling(content)
    normal = compute_normal(orientations[0])
    is_reversed = bool((np.diff(positions_mm @ normal) < 0).all())
    return Frames(
        positions_mm=positions_mm,
        orientation=orientations[0],
        normal=-normal if is_reversed else normal,
        spacing_mm_yx=spacing,
    )


def _read_geometry(
    content: mmap.mmap, count: int
) -> tuple[Float64[np.ndarray, "frame 3"], Float64[np.ndarray, "orientation 6"]]:
    positions: list[list[float]] = []
    orientations: list[list[float]] = []
    for match in FRAME_GEOMETRY.finditer(content):
        if match["position"] is None:
            orientations.append(_parse_value(content, match, name="ImageOrientationPatient", count=6))
        else:
            positions.append(_parse_value(content, match, name="ImagePositionPatient", count=3))
        if len(positions) == count and orientations:
            break  # before the voxels begin
    if len(positions) != count or not orientations:
        msg = f"the header does not tell where its {count} frames lie; {ADVICE}"
        raise VolumeError(msg)
    wrong = next(filter(None, map(explain_orientation, orientations)), None)
    if wrong is not None:
        raise VolumeError(wrong)
    return np.array(positions), np.array(orientations)


def _read_spacing(content: mmap.mmap) -> tuple[float, float] | None:
    end = content.rfind(PIXEL_DATA)
    found = {
        tuple(_parse_value(content, match, name="PixelSpacing", count=2))
        for match in FRAME_SPACING.finditer(content, 0, end)
    }
    values = np.array(sorted(found))
    if not found:
        return None
    wrong = next(filter(None, map(explain_spacing, sorted(found))), None)
    if wrong is not None:
        raise VolumeError(wrong)
    if not np.allclose(values, values[0], rtol=ROUNDED_SPACING, atol=0):
        msg = f"expected one pixel spacing for all frames, found {len(found)}; {ADVICE}"
        raise VolumeError(msg)
    along_y, along_x = values[0].tolist()
    return along_y, along_x


def _check_rescaling(content: mmap.mmap) -> None:
    """Checks that all frames have one slope and one intercept, as ITK applies those of the first."""
    values: dict[bytes, set[float]] = {}
    for match in FRAME_RESCALE.finditer(content, 0, content.rfind(PIXEL_DATA)):
        values.setdefault(match["tag"], set()).update(_parse_value(content, match, name="rescaling", count=1))
    most = max(map(len, values.values()), default=1)
    if most > 1:
        msg = f"expected one rescaling for all frames, found {most}; {ADVICE}"
        raise VolumeError(msg)


def _parse_value(content: mmap.mmap, match: "re.Match[bytes]", *, name: str, count: int) -> list[float]:
    """Parses the decimal strings of an element that an expression has found."""
    length = int.from_bytes(match["explicit"] or match["implicit"], "little")
    text = content[match.end() : match.end() + length]
    values = [float(number) for number in text.split(b"\\")]
    if len(values) != count or not np.isfinite(values).all():
        msg = f"expected {count} finite numbers for {name} of a frame, found {text.decode('latin-1')!r}; {ADVICE}"
        raise VolumeError(msg)
    return values


def _name_frames(indices: Sequence[int]) -> str:
    return f"frames {', '.join(str(index + 1) for index in indices)}"
