"""Reads single DICOM files that hold one slice or one volume (enhanced multi-frame), through SimpleITK.

The positions of the frames are read from the file itself: ITK reports a spacing of the frames, but neither whether
their order follows or opposes the normal of the plane nor whether one is missing.
"""

import mmap
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.processes.library_output import redirect_library_messages
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
ROWS: Final = "0028|0010"
COLUMNS: Final = "0028|0011"
SPACING: Final = "0028|0030"
SERIES_TAGS: Final = (
    *(MODALITY, IMAGE_TYPE, SOP_CLASS, INSTANCE, DESCRIPTION, STUDY, SERIES, SERIES_NUMBER, INSTANCE_NUMBER),
    *(POSITION, ORIENTATION, FRAME_COUNT, ROWS, COLUMNS, SPACING),
)
MODALITIES_WITHOUT_IMAGE: Final = ("SEG", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO")
ADVICE: Final = "convert it with dcm2niix"

# Positions are decimal text, of which some scanners write two digits after the point.
POSITION_TOLERANCE_MM: Final = 0.01
ORIENTATION_TOLERANCE: Final = 1e-4

# A sequence of one item, whose first element is wanted: tag, (SQ), length, item tag, length, tag, (DS), length, value.
# DICOM PS3.3 C.7.6.16.2.3 (Plane Position) and C.7.6.16.2.4 (Plane Orientation); PS3.5 7.1 (explicit, implicit VR).
FRAME_GEOMETRY: Final = re.compile(
    rb"\x20\x00(?:(?P<position>\x13)|\x16)\x91(?:SQ\x00\x00)?.{4}\xfe\xff\x00\xe0.{4}"
    rb"\x20\x00(?(position)\x32|\x37)\x00(?:DS(?P<explicit>..)|(?P<implicit>..)\x00\x00)",
    re.DOTALL,
)


FRAME_RESCALE: Final = re.compile(
    rb"\x28\x00(?P<tag>[\x52\x53])\x10(?:DS(?P<explicit>..)|(?P<implicit>..)\x00\x00)", re.DOTALL
)
"""Intercept and slope of a frame: DICOM PS3.3 C.7.6.16.2.9 (Pixel Value Transformation)."""
PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"
TILT_TOLERANCE_PIXELS: Final = 0.5  # over the whole stack


def read(path: Path, *, as_labels: bool) -> StoredVolume:
    """Reads all voxels, rescaled as in the header; the samples of a colour image are channels."""
    import SimpleITK

    del as_labels
    with redirect_library_messages():
        reader = _open_reader(path)
        grid = _build_grid(path, reader)
        array = SimpleITK.GetArrayFromImage(reader.Execute())
    channels = np.moveaxis(array, -1, 0) if reader.GetNumberOfComponents() > 1 else array[None]
    return StoredVolume(array=channels, grid=grid)


def read_grid(path: Path) -> Grid:
    """Reads the header."""
    with redirect_library_messages():
        return _build_grid(path, _open_reader(path))


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
    modality = reader.GetMetaData(MODALITY).strip() if reader.HasMetaDataKey(MODALITY) else ""
    if modality in MODALITIES_WITHOUT_IMAGE:
        msg = f"{path}: expected a DICOM image, found an object of modality {modality}; save it as .nii.gz"
        raise VolumeError(msg)
    return reader


def _open_file(path: Path) -> Any:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _build_grid(path: Path, reader: Any) -> Grid:
    grid = build_grid(reader)
    if grid.shape_voxels[0] == 1:
        return grid
    positions_mm, orientations = _read_frames(path, grid.shape_voxels[0])
    step = _measure_step(path, positions_mm)
    if np.ptp(orientations, axis=0).max() > ORIENTATION_TOLERANCE:
        msg = f"{path}: its frames are tilted against each other, so they are no volume; {ADVICE}"
        raise VolumeError(msg)
    _check_rescaling(path)
    distance = float(np.linalg.norm(step))
    along_x, along_y = orientations[0, :3], orientations[0, 3:]
    problem = explain_tilt(positions_mm, np.cross(along_x, along_y), pixel_mm=min(grid.spacing_mm[1:]))
    if problem is not None:
        msg = f"{path}: {problem}"
        raise VolumeError(msg)
    return Grid(
        shape_voxels=grid.shape_voxels,
        spacing_mm=(distance, *grid.spacing_mm[1:]),
        origin_mm=convert_lps_ras(positions_mm[0]),
        direction=(convert_lps_ras(step / distance), convert_lps_ras(along_y), convert_lps_ras(along_x)),
    )


def _measure_step(path: Path, positions_mm: Float64[np.ndarray, "frame 3"]) -> Float64[np.ndarray, "3"]:
    """Returns the vector between neighbouring frames, checked to be the same for all of them."""
    count = len(positions_mm)
    step = np.asarray((positions_mm[-1] - positions_mm[0]) / (count - 1), dtype=np.float64)
    expected = positions_mm[0] + np.arange(count)[:, None] * step
    off_mm = float(np.abs(positions_mm - expected).max())
    if off_mm > POSITION_TOLERANCE_MM or np.linalg.norm(step) <= POSITION_TOLERANCE_MM:
        msg = (
            f"{path}: expected frames in equal steps along one line, found them up to {off_mm:.3g} mm off it (several "
            f"volumes, missing frames, or another order); {ADVICE}"
        )
        raise VolumeError(msg)
    return step


def _read_frames(path: Path, count: int) -> tuple[Float64[np.ndarray, "frame 3"], Float64[np.ndarray, "orientation 6"]]:
    """Returns the positions (mm) of the frames in their order, and their orientations, in DICOM's world (L, P, S)."""
    positions: list[list[float]] = []
    orientations: list[list[float]] = []
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in FRAME_GEOMETRY.finditer(content):
            length = int.from_bytes(match["explicit"] or match["implicit"], "little")
            values = [float(text) for text in content[match.end() : match.end() + length].split(b"\\")]
            (orientations if match["position"] is None else positions).append(values)
            if len(positions) == count and orientations:
                break  # before the voxels begin
    if len(positions) != count or not orientations:
        msg = f"{path}: the header does not tell where its {count} frames lie; {ADVICE}"
        raise VolumeError(msg)
    return np.array(positions), np.array(orientations)


def explain_tilt(
    positions_mm: Float64[np.ndarray, "slice 3"], normal: Float64[np.ndarray, "3"], *, pixel_mm: float
) -> str | None:
    """Explains that slices in their order along a line are shifted against each other; None if they are not."""
    along = positions_mm[-1] - positions_mm[0]
    aside_mm = float(np.linalg.norm(along - (along @ normal) * normal))
    if aside_mm <= TILT_TOLERANCE_PIXELS * pixel_mm:
        return None
    degrees = np.degrees(np.arctan2(aside_mm, abs(along @ normal)))
    return (
        f"expected slices exactly above each other, found each shifted against the last, as with a gantry that is "
        f"tilted by {degrees:.1f} degrees ({aside_mm:.1f} mm over the whole stack); resample it to upright slices "
        f"first, for example with dcm2niix"
    )


def _check_rescaling(path: Path) -> None:
    """Checks that all frames have one slope and one intercept, as ITK applies those of the first."""
    values: dict[bytes, set[bytes]] = {}
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in FRAME_RESCALE.finditer(content, 0, content.rfind(PIXEL_DATA)):
            length = int.from_bytes(match["explicit"] or match["implicit"], "little")
            values.setdefault(match["tag"], set()).add(content[match.end() : match.end() + length].strip())
    most = max(map(len, values.values()), default=1)
    if most > 1:
        msg = f"{path}: expected one rescaling for all frames, found {most}; {ADVICE}"
        raise VolumeError(msg)
