"""Checks VTK and MRC files for errors that ITK overlooks or silently repairs."""

import logging
import re
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Shaped

from autoseg.errors import VolumeError
from autoseg.file_endings import MRC_ENDINGS
from autoseg.volume_io.formats.headers.voxel_data import parse_numbers

LOGGER = logging.getLogger(__name__)

HEADER_BYTES: Final = 2**16
VTK_ENDINGS: Final = (".vtk",)
VTK_KIND: Final = re.compile(r"^DATASET\s+(\S+)", re.MULTILINE | re.IGNORECASE)
VTK_SPACING: Final = re.compile(r"^(?:SPACING|ASPECT_RATIO)\s+(.*)$", re.MULTILINE | re.IGNORECASE)
VTK_VOXELS: Final = re.compile(
    rb"^(?P<coding>BINARY|ASCII)\s.*?^(?:SCALARS|VECTORS|TENSORS|COLOR_SCALARS)[^\n]*\n(?:LOOKUP_TABLE[^\n]*\n)?",
    re.MULTILINE | re.IGNORECASE | re.DOTALL,
)
MRC_HEADER_BYTES: Final = 1024


def check_complete(path: Path, array: Shaped[np.ndarray, "..."]) -> None:
    """Checks the length of VTK and MRC files, which ITK fills up with arbitrary memory if they are truncated.

    Raises:
        VolumeError: The file holds less than its header promises.
    """
    name = path.name.lower()
    if name.endswith(MRC_ENDINGS):
        _check_length(path, MRC_HEADER_BYTES + array.nbytes)
    elif name.endswith(VTK_ENDINGS):
        start = VTK_VOXELS.search(_read_start(path))
        if start is not None and start["coding"].upper() == b"BINARY":
            _check_length(path, start.end() + array.nbytes)
        elif start is not None:
            _check_number_count(path, start.end(), array.size)


def _check_length(path: Path, expected_bytes: int) -> None:
    found = path.stat().st_size
    if found < expected_bytes:
        msg = f"{path}: expected {expected_bytes} bytes, found {found}; it is cut off: copy it again"
        raise VolumeError(msg)


def _check_number_count(path: Path, offset_bytes: int, expected: int) -> None:
    found = len(path.read_bytes()[offset_bytes:].split())
    if found < expected:
        msg = f"{path}: expected {expected} numbers, found {found}; it is cut off: copy it again"
        raise VolumeError(msg)


def check_vtk_header(path: Path) -> None:
    """Checks kind and spacing as stored, because ITK silently replaces invalid values.

    Raises:
        VolumeError: The spacing cannot be used, or the file holds something else than structured points.
    """
    header = _read_start(path).decode("latin-1")
    kind = VTK_KIND.search(header)
    if kind is None or kind[1].upper() != "STRUCTURED_POINTS":
        found_kind = "no such header" if kind is None else kind[1]
        msg = (
            f"{path}: expected a VTK file of STRUCTURED_POINTS, found {found_kind}; save an image in the legacy format"
        )
        raise VolumeError(msg)
    found = VTK_SPACING.search(header)
    if found is None:
        LOGGER.warning("%s: the header has no SPACING; 1 mm is assumed", path)
    elif not all(0 < spacing < np.inf for spacing in parse_numbers(path, "SPACING", found[1], count=3)):
        msg = f"{path}: spacing must be positive, found SPACING {found[1].strip()}; repair the header"
        raise VolumeError(msg)


def _read_start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEADER_BYTES)
