"""Reads a DICOM segmentation (SEG) onto the grid of its image, frame by frame where its position says."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float64, Int32

from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.remote.local_files import use_local
from autoseg.volume_io.dicom.headers import find_object_kind
from autoseg.volume_io.dicom.segments import check_dicom_libraries
from autoseg.volume_io.formats.itk import LPS_TO_RAS
from autoseg.volume_io.formats.volumes import LabelVolume, translate_decoder_errors

SEGMENTATION: Final = "segmentation"  # as `find_object_kind` calls it
BINARY: Final = "BINARY"
TOLERANCE_VOXELS: Final = 0.1  # positions are decimal text


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation."""
    with use_local(path):
        return path.is_file() and find_object_kind(path) == SEGMENTATION


def read_segmentation(path: Path, grid: Grid) -> LabelVolume:
    """Returns the numbers of the segments on a grid; of segments that overlap, the one with the highest number.

    Raises:
        PredictionError: pydicom is not installed.
        VolumeError: The file cannot be read, is not binary, or a frame lies on another grid.
    """
    check_dicom_libraries(("pydicom",), what=f"the DICOM segmentation {path}")
    with use_local(path), translate_decoder_errors(path):
        return LabelVolume(array=_read(path, grid), grid=grid)


def _read(path: Path, grid: Grid) -> Int32[np.ndarray, "z y x"]:
    import pydicom

    document = pydicom.dcmread(path)
    if document.SegmentationType != BINARY:
        msg = f"{path}: expected a {BINARY} segmentation, found {document.SegmentationType}; save it as .nii.gz"
        raise VolumeError(msg)
    shape, frames = (int(document.Rows), int(document.Columns)), document.PerFrameFunctionalGroupsSequence
    if len(frames) > len(document.SegmentSequence) * grid.shape_voxels[0]:
        raise VolumeError(_describe_other_grid(path, grid))
    groups = [_Groups(frame, document) for frame in frames]
    places = [_find_place(group, shape, grid) for group in groups]
    array = np.zeros(grid.shape_voxels, np.int32)
    masks = document.pixel_array.reshape(-1, *shape) > 0
    for group, place, mask in zip(groups, places, masks, strict=True):
        if place is None:
            raise VolumeError(_describe_other_grid(path, grid))
        z, y, x = place
        part = array[z, y : y + shape[0], x : x + shape[1]]
        number = int(group.find("SegmentIdentificationSequence").ReferencedSegmentNumber)
        np.maximum(part, number * mask, out=part, casting="unsafe")
    return array


class _Groups:
    """The functional groups of a frame: its own, and those that all frames share."""

    def __init__(self, frame: Any, document: Any) -> None:
        self._places = (frame, *document.get("SharedFunctionalGroupsSequence", ()))

    def find(self, keyword: str) -> Any:
        """Returns the item of a group.

        Raises:
            KeyError: There is none.
        """
        for place in self._places:
            if keyword in place:
                return place[keyword].value[0]
        raise KeyError(keyword)


def _find_place(group: _Groups, shape_yx: tuple[int, int], grid: Grid) -> tuple[int, int, int] | None:
    """Finds the voxel (z, y, x) at which a frame begins; None if its pixels are not voxels of the grid."""
    start = np.array(group.find("PlanePositionSequence").ImagePositionPatient, dtype=np.float64)
    orientation = np.array(group.find("PlaneOrientationSequence").ImageOrientationPatient, dtype=np.float64)
    along_y_mm, along_x_mm = (float(value) for value in group.find("PixelMeasuresSequence").PixelSpacing)
    rows, columns = shape_yx
    right = start + (columns - 1) * along_x_mm * orientation[:3]
    below = start + (rows - 1) * along_y_mm * orientation[3:]
    found = _find_voxels(np.array([start, right, below]), grid)
    first = np.rint(found[0])
    expected = np.add(first, [[0, 0, 0], [0, 0, columns - 1], [0, rows - 1, 0]])
    is_inside = (first >= 0).all() and (np.add(first, (1, rows, columns)) <= grid.shape_voxels).all()
    if not is_inside or np.abs(found - expected).max() > TOLERANCE_VOXELS:
        return None
    z, y, x = (int(index) for index in first)
    return z, y, x


def _find_voxels(points_mm: Float64[np.ndarray, "point 3"], grid: Grid) -> Float64[np.ndarray, "point 3"]:
    """Returns the indices (z, y, x) of points in DICOM's world, with fractions."""
    world = np.column_stack([points_mm * LPS_TO_RAS, np.ones(len(points_mm))])
    indices: Float64[np.ndarray, "point 3"] = (world @ np.linalg.inv(grid.affine).T)[:, 2::-1]
    return indices


def _describe_other_grid(path: Path, grid: Grid) -> str:
    return (
        f"{path}: expected frames on the grid of the image ({grid.describe()}), found some that lie elsewhere; give "
        f"the series that the segmentation was made of"
    )
