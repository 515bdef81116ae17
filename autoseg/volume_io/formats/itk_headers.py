"""Checks headers of MetaImage, NRRD, VTK and MRC files for errors that ITK overlooks or silently repairs."""

import logging
import re
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Shaped

from autoseg.errors import VolumeError
from autoseg.file_endings import MRC_ENDINGS

LOGGER = logging.getLogger(__name__)

HEADER_BYTES: Final = 2**16
META_ENDINGS: Final = (".mha", ".mhd")
META_SPACING: Final = re.compile(r"^\s*Element(?:Spacing|Size)\s*=(.*)$", re.MULTILINE)
NRRD_ENDINGS: Final = (".nrrd", ".nhdr")
NRRD_SPACING: Final = re.compile(r"^(?:spacings|space directions):(.*)$", re.MULTILINE)
VTK_ENDINGS: Final = (".vtk",)
VTK_KIND: Final = re.compile(r"^DATASET\s+(\S+)", re.MULTILINE | re.IGNORECASE)
VTK_SPACING: Final = re.compile(r"^(?:SPACING|ASPECT_RATIO)\s+(.*)$", re.MULTILINE | re.IGNORECASE)
VTK_VOXELS: Final = re.compile(
    rb"^(?P<coding>BINARY|ASCII)\s.*?^(?:SCALARS|VECTORS|TENSORS|COLOR_SCALARS)[^\n]*\n(?:LOOKUP_TABLE[^\n]*\n)?",
    re.MULTILINE | re.IGNORECASE | re.DOTALL,
)
MRC_HEADER_BYTES: Final = 1024


def check_stored_header(path: Path) -> None:
    """Checks the spacing as stored, because ITK silently replaces invalid values.

    Raises:
        VolumeError: The spacing cannot be used, or a VTK file holds something else than structured points.
    """
    name = path.name.lower()
    if name.endswith(META_ENDINGS):
        _check_meta_spacing(path)
    elif name.endswith(NRRD_ENDINGS):
        _check_nrrd_spacing(path)
    elif name.endswith(VTK_ENDINGS):
        _check_vtk_header(path)


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


def _check_vtk_header(path: Path) -> None:
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
    elif not all(0 < float(text) < np.inf for text in found[1].split()):
        msg = f"{path}: spacing must be positive, found SPACING {found[1].strip()}; repair the header"
        raise VolumeError(msg)


def _read_start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEADER_BYTES)


def _check_meta_spacing(path: Path) -> None:
    """Checks for spacings that ITK misreads: it reads 0 as 1, and a negative one as 1e16."""
    header = _read_start(path).partition(b"ElementDataFile")[0].decode("latin-1")
    found = META_SPACING.search(header)
    if found is None:
        LOGGER.warning("%s: the header has no ElementSpacing; 1 mm is assumed", path)
    elif not all(0 < float(text) < np.inf for text in found[1].split()):
        msg = f"{path}: spacing must be positive, found ElementSpacing = {found[1].strip()}; repair the header"
        raise VolumeError(msg)


def _check_nrrd_spacing(path: Path) -> None:
    """Checks for missing spacings, which ITK reads as 1."""
    header = _read_start(path).partition(b"\n\n")[0].decode("latin-1")
    found = NRRD_SPACING.search(header)
    if found is None:
        LOGGER.warning("%s: the header has neither spacings nor space directions; 1 mm is assumed", path)
    elif header.startswith("spacings", found.start()) and not _are_finite(found[1].split()):
        msg = f"{path}: spacing must be a number, found spacings:{found[1]}; repair the header"
        raise VolumeError(msg)


def _are_finite(texts: list[str]) -> bool:
    return bool(np.isfinite([float(text) for text in texts]).all())
