"""Geometry of DICOM headers that is no geometry: what was found, in which slices or file, and what to do."""

import re
import shutil

import numpy as np
import pytest
from builders.dicom_series import OBLIQUE, write_enhanced, write_series

from autoseg.errors import VolumeError
from autoseg.volume_io import read_grid, read_image
from autoseg.volume_io.dicom import find_series, read_stack, stack_slices

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
VOXELS = np.arange(5 * 4 * 6).reshape(5, 4, 6)
NO_VECTORS = (
    "expected two vectors of length 1 at right angles for ImageOrientationPatient, found {}; export the series again"
)
NO_SPACING = "expected two positive distances in mm for PixelSpacing, found {}; export the series again"
ZEROS = (0, 0, 0, 0, 0, 0)
INVALID = [
    ("ImageOrientationPatient", (0, 0, 0, 0, 1, 0), NO_VECTORS.format(r"0\0\0\0\1\0")),
    ("ImageOrientationPatient", (1, 0, 0, 1, 0, 0), NO_VECTORS.format(r"1\0\0\1\0\0")),
    ("ImageOrientationPatient", (1, 0, 0, 0.25, 0.97, 0), NO_VECTORS.format(r"1\0\0\0.25\0.97\0")),
    ("ImageOrientationPatient", (2, 0, 0, 0, 2, 0), NO_VECTORS.format(r"2\0\0\0\2\0")),
    ("PixelSpacing", (0, 0.7), NO_SPACING.format(r"0\0.7")),
    ("PixelSpacing", (-0.8, 0.7), NO_SPACING.format(r"-0.8\0.7")),
]


def write(folder, keyword, values, *, instances=range(1, 6)):
    write_series(folder, VOXELS)
    for path in folder.iterdir():
        document = pydicom.dcmread(path)
        if document.InstanceNumber in instances:
            setattr(document, keyword, list(values))
            document.save_as(path)
    return folder


def stack(folder):
    (series,) = find_series(folder).series
    return stack_slices(series)


@pytest.mark.parametrize(
    ("keyword", "values", "expected"),
    [*INVALID, ("ImageOrientationPatient", ZEROS, NO_VECTORS.format(r"0\0\0\0\0\0"))],
)
def test_slices_of_a_series_with_invalid_geometry_are_named(tmp_path, keyword, values, expected):
    with pytest.raises(VolumeError, match=rf"^instance 4: {re.escape(expected)}, or correct the headers in a copy$"):
        stack(write(tmp_path / "one", keyword, values, instances=(4,)))
    with pytest.raises(VolumeError, match=rf"^instances (\d, ){{4}}\d: {re.escape(expected)}"):
        stack(write(tmp_path / "all", keyword, values))
    path = write_enhanced(tmp_path / "a.dcm", VOXELS, [(0, 0, 5 * index) for index in range(5)])
    document = pydicom.dcmread(path)
    shared = document.SharedFunctionalGroupsSequence[0]
    item = shared.PixelMeasuresSequence if keyword == "PixelSpacing" else shared.PlaneOrientationSequence
    setattr(item[0], keyword, list(values))
    document.save_as(path)
    with pytest.raises(VolumeError, match=rf"^{re.escape(str(path))}: {re.escape(expected)}"):
        read_grid(path)


@pytest.mark.parametrize(("keyword", "values", "expected"), INVALID)
def test_a_single_slice_with_invalid_geometry_is_named(tmp_path, keyword, values, expected):
    path = shutil.move(min(write(tmp_path / "s", keyword, values).iterdir()), tmp_path / "a.dcm")
    for read in (read_grid, lambda file: read_image([file])):
        with pytest.raises(VolumeError, match=rf"^{re.escape(str(path))}: {re.escape(expected)}"):
            read(path)


def test_a_single_slice_whose_orientation_is_zeros_lies_as_one_without(tmp_path):
    grids = []
    for name, values in (("zeros", ZEROS), ("none", ())):
        path = min(write(tmp_path / name, "ImageOrientationPatient", values).iterdir())
        grids.append(read_grid(path))
    assert grids[0] == grids[1]


def test_vectors_that_were_rounded_to_two_digits_are_valid(tmp_path):
    folder = write_series(tmp_path / "s", VOXELS, orientation=OBLIQUE)
    for path in folder.iterdir():
        document = pydicom.dcmread(path)
        document.ImageOrientationPatient = [round(value, 2) for value in OBLIQUE]
        document.save_as(path)
    assert read_stack(stack(folder)).array.shape == (1, *VOXELS.shape)


def test_a_frame_with_too_few_numbers_is_named_by_what_it_lacks(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", VOXELS, [(0, 0, 5 * index) for index in range(5)])
    document = pydicom.dcmread(path)
    document.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient = [0, 0]
    document.save_as(path)
    with pytest.raises(
        VolumeError, match=r"a\.dcm: expected 3 finite numbers for ImagePositionPatient of a frame, found"
    ):
        read_grid(path)


def test_axes_of_another_format_that_lie_in_a_plane_are_refused(tmp_path):
    header = (
        "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\nencoding: raw\n"
        "space directions: (1,0,0) (1,0,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(8))
    with pytest.raises(
        VolumeError, match=r"a\.nrrd: the axes map the volume onto a plane: .* repair the file's header"
    ):
        read_grid(tmp_path / "a.nrrd")
