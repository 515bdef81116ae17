"""Reads single DICOM files that hold one slice or one volume (enhanced multi-frame), through SimpleITK.

The frames of a volume are sorted by position.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.processes.library_output import redirect_library_messages
from autoseg.volume_io.formats.dicom_frames import read_frames
from autoseg.volume_io.formats.dicom_positions import explain_orientation, explain_spacing, parse_numbers
from autoseg.volume_io.formats.itk import build_grid, convert_lps_ras
from autoseg.volume_io.formats.volumes import StoredVolume

MODALITY: Final = "0008|0060"
IMAGE_TYPE: Final = "0008|0008"
SOP_CLASS: Final = "0008|0016"
INSTANCE: Final = "0008|0018"
DESCRIPTION: Final = "0008|103e"
STUDY: Final = "0020|000d"
SERIES: Final = "0020|000e"
SERIES_NUMBER: Final = "0020|0011"
INSTANCE_NUMBER: Final = "0020|0013"
POSITION: Final = "0020|0032"
ORIENTATION: Final = "0020|0037"
FRAME_COUNT: Final = "0028|0008"
PHOTOMETRIC: Final = "0028|0004"
PIXEL_REPRESENTATION: Final = "0028|0103"
ROWS: Final = "0028|0010"
COLUMNS: Final = "0028|0011"
SPACING: Final = "0028|0030"
THICKNESS: Final = "0018|0050"
SLICE_DISTANCE: Final = "0018|0088"
SERIES_TAGS: Final = (
    *(MODALITY, IMAGE_TYPE, SOP_CLASS, INSTANCE, DESCRIPTION, STUDY, SERIES, SERIES_NUMBER, INSTANCE_NUMBER),
    *(POSITION, ORIENTATION, FRAME_COUNT, PHOTOMETRIC, ROWS, COLUMNS, SPACING, THICKNESS, SLICE_DISTANCE),
)
MODALITIES_WITHOUT_IMAGE: Final = ("SEG", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO")
MODALITIES_WITH_UNIT: Final = ("CT", "PT")
INVERTED: Final = "MONOCHROME1"
"""Grey values of which the lowest is shown white (DICOM PS3.3 C.7.6.3.1.2). ITK returns 2^n - 1 - x for n bits stored
without a sign, -1 - x for 16 bits with one, and fails for fewer with one."""


def read(path: Path, *, as_labels: bool) -> StoredVolume:
    """Reads all voxels, rescaled as in the header; the samples of a colour image are channels."""
    import SimpleITK

    del as_labels
    with redirect_library_messages():
        reader = _open_reader(path)
        grid, order = _build_grid(path, reader)
        array = SimpleITK.GetArrayFromImage(reader.Execute())
    if list(order) != sorted(order):
        array = array[list(order)]
    channels = np.moveaxis(array, -1, 0) if reader.GetNumberOfComponents() > 1 else array[None]
    return StoredVolume(array=channels, grid=grid)


def read_grid(path: Path) -> Grid:
    """Reads the header."""
    with redirect_library_messages():
        return _build_grid(path, _open_reader(path))[0]


def read_tags(path: Path) -> dict[str, str]:
    """Reads what tells to which series a slice belongs and where it lies; empty texts for tags that it lacks.

    The keys are those of ITK, and `components`. Nothing about the patient is among them.
    """
    with redirect_library_messages():
        reader = _open_file(path)
    found = {tag: reader.GetMetaData(tag) if reader.HasMetaDataKey(tag) else "" for tag in SERIES_TAGS}
    return {**found, "components": str(reader.GetNumberOfComponents())}


def _open_reader(path: Path) -> Any:
    reader = _open_file(path)
    modality = _get_tag(reader, MODALITY)
    if modality in MODALITIES_WITHOUT_IMAGE:
        msg = f"{path}: expected a DICOM image, found an object of modality {modality}; save it as .nii.gz"
        raise VolumeError(msg)
    is_signed = _get_tag(reader, PIXEL_REPRESENTATION) == "1"
    if _get_tag(reader, PHOTOMETRIC) == INVERTED and (is_signed or modality in MODALITIES_WITH_UNIT):
        found = "numbers with a sign" if is_signed else f"values of modality {modality}, which have a unit"
        msg = (
            f"{path}: found PhotometricInterpretation {INVERTED} for {found}: ITK would invert them, other programs "
            f"would not; write MONOCHROME2 into the headers of copies of the files, which leaves their values as they "
            f"are"
        )
        raise VolumeError(msg)
    return reader


def _get_tag(reader: Any, tag: str) -> str:
    return str(reader.GetMetaData(tag)).strip("\0 ") if reader.HasMetaDataKey(tag) else ""


def _open_file(path: Path) -> Any:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _build_grid(path: Path, reader: Any) -> tuple[Grid, tuple[int, ...]]:
    """Builds the grid; returns it and the frame at every z."""
    grid = build_grid(reader)
    if grid.shape_voxels[0] == 1:
        _check_single_slice(path, reader)
        return grid, (0,)
    try:
        frames = read_frames(path, grid.shape_voxels[0])
        spacing = frames.spacing_mm_yx or grid.spacing_mm[1:]
        order = frames.arrange(pixel_mm=min(spacing))
    except VolumeError as error:
        msg = f"{path}: {error}"
        raise VolumeError(msg) from None
    along_x, along_y = frames.orientation[:3], frames.orientation[3:]
    placed = replace(
        grid,
        spacing_mm=(order.step_mm, *spacing),
        origin_mm=convert_lps_ras(frames.positions_mm[order.indices[0]]),
        direction=(convert_lps_ras(frames.normal), convert_lps_ras(along_y), convert_lps_ras(along_x)),
    )
    return placed, order.indices


def _check_single_slice(path: Path, reader: Any) -> None:
    """Checks the geometry of a slice, as ITK replaces what is invalid; zeros are as good as none, which X-rays lack."""
    orientation = parse_numbers(_get_tag(reader, ORIENTATION), "ImageOrientationPatient", 6)
    spacing = parse_numbers(_get_tag(reader, SPACING), "PixelSpacing", 2)
    wrong = None if orientation is None or not orientation.any() else explain_orientation(orientation)
    wrong = wrong or (None if spacing is None else explain_spacing(spacing))
    if wrong is not None:
        msg = f"{path}: {wrong}"
        raise VolumeError(msg)
