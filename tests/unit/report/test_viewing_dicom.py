"""The viewer of any image takes series of DICOM, and the segmentations that were made of them."""

import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from builders.dicom_series import PATIENT, STUDY, UPRIGHT, place_slices, write_enhanced, write_series

from autoseg.errors import VolumeError
from autoseg.volume_io import read_grid, write_label_map
from autoseg.volume_io.dicom import (
    Code,
    Segment,
    SegmentedBy,
    find_series,
    is_segmentation,
    read_segmentation,
    segmentation,
    stack_slices,
)
from autoseg.workflows.report.viewing import build_view, write_view

WHY = "highdicom and pydicom are not installed (pip install 'autoseg[dicom]')"
SHAPE = (5, 8, 9)
VOXELS = np.random.default_rng(0).integers(-900, 900, SHAPE)
TERM = Code(scheme="99AUTOSEG", value="CLASS1", meaning="x")


def make_label_map():
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[1:4, 2:5, 3:8] = 1
    label_map[2, 5:8, :4] = 2
    return label_map


def open_stack(folder):
    (series,) = find_series(folder).series
    return stack_slices(series)


def write_segmentation(path, stack, segments=((1,), (2,))):
    made = [Segment(name=str(values), values=values, category=TERM, term=TERM) for values in segments]
    made_by = SegmentedBy(version="1", model="m", weights="0" * 64)
    segmentation.write(path, make_label_map(), stack, segments=made, made_by=made_by)
    return path


def show(page, layer):
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(page.cases[0].volumes[layer])).dataobj)


def test_a_folder_of_dicom_is_shown_with_its_label_map_and_segmentation_alike(tmp_path):
    pytest.importorskip("highdicom", reason=WHY)
    folder = write_series(tmp_path / PATIENT, VOXELS)
    stack = open_stack(folder)
    write_label_map(tmp_path / "a.nii.gz", make_label_map(), grid=stack.grid, like=None)
    paths = [tmp_path / "a.nii.gz", write_segmentation(tmp_path / "b.seg.dcm", stack)]
    page = build_view(folder, paths)
    assert list(page.cases[0].volumes) == ["image", "a", "b.seg"]
    np.testing.assert_array_equal(show(page, "a"), show(page, "b.seg"))
    assert page.label_names == ["1", "2"]
    write_view(next(folder.iterdir()), paths, tmp_path / "view.html")  # any slice stands for its series
    text = (tmp_path / "view.html").read_text(encoding="utf-8")
    assert f"<h1>{STUDY}.1</h1>" in text
    assert "thorax" in text
    assert "quakenbush" not in text.lower()


def test_a_label_map_of_a_single_slice_fits_however_thick_it_is(tmp_path):
    pydicom = pytest.importorskip("pydicom", reason=WHY)
    (path,) = write_series(tmp_path / "case", VOXELS[:1]).iterdir()
    document = pydicom.dcmread(path)
    document.pop("SpacingBetweenSlices", None)  # ITK may have written it, and would read it
    document.SliceThickness = 3.5
    document.save_as(path)
    grid = read_grid(path)  # of the file alone, as a model that was trained on such files predicts it
    assert (grid.spacing_mm[0], open_stack(path.parent).grid.spacing_mm[0]) == (1.0, 3.5)
    write_label_map(tmp_path / "a.nii.gz", make_label_map()[2:3], grid=grid, like=path)
    np.testing.assert_array_equal(np.unique(show(build_view(path, [tmp_path / "a.nii.gz"]), "a")), [0, 1, 2])
    moved = replace(grid, origin_mm=(0.0, 0.0, 0.0))
    write_label_map(tmp_path / "b.nii.gz", make_label_map()[2:3], grid=moved, like=None)
    with pytest.raises(VolumeError, match="the grids differ in origin"):
        build_view(path, [tmp_path / "b.nii.gz"])


def test_one_of_several_series_is_chosen(tmp_path):
    for number, description in ((1, "lung"), (2, "bone")):
        write_series(tmp_path, VOXELS[:number], number=number, description=description)
    with pytest.raises(VolumeError, match=r"found series 1 'lung' .*name one of them with --series"):
        build_view(tmp_path, [])
    assert build_view(tmp_path, [], series="bone").title == f"{STUDY}.2"
    with pytest.raises(VolumeError, match="chooses among the DICOM series of a folder"):
        build_view(next(tmp_path.iterdir()), [], series="bone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VolumeError, match="found none; give an image file, or a folder that holds a series"):
        build_view(tmp_path / "empty", [])


def test_a_segmentation_of_frames_in_any_order_lies_where_they_do(tmp_path):
    pytest.importorskip("highdicom", reason=WHY)
    order = [0, 2, 4, 1, 3]
    write_enhanced(tmp_path / "IM1", VOXELS[order], [place_slices(UPRIGHT, 5.0)(index) for index in order])
    stack = open_stack(tmp_path / "IM1")
    path = write_segmentation(tmp_path / "a.seg.dcm", stack)
    assert is_segmentation(path)
    assert not is_segmentation(tmp_path / "IM1")
    np.testing.assert_array_equal(read_segmentation(path, stack.grid).array, make_label_map())


def test_of_segments_that_overlap_the_last_is_seen(tmp_path):
    pytest.importorskip("highdicom", reason=WHY)
    stack = open_stack(write_series(tmp_path / "s", VOXELS))
    path = write_segmentation(tmp_path / "a.seg.dcm", stack, segments=((1, 2), (2,)))
    np.testing.assert_array_equal(read_segmentation(path, stack.grid).array, make_label_map())


def test_a_segmentation_of_another_series_or_kind_is_refused(tmp_path):
    pydicom = pytest.importorskip("pydicom", reason=WHY)
    pytest.importorskip("highdicom", reason=WHY)
    path = write_segmentation(tmp_path / "a.seg.dcm", open_stack(write_series(tmp_path / "s", VOXELS)))
    other = open_stack(write_series(tmp_path / "t", VOXELS, number=2, step_mm=4.0))
    with pytest.raises(VolumeError, match=r"a\.seg\.dcm: expected frames on the grid of the image .*lie elsewhere"):
        read_segmentation(path, other.grid)
    document = pydicom.dcmread(path)
    document.SegmentationType = "FRACTIONAL"
    document.save_as(path)
    with pytest.raises(VolumeError, match="expected a BINARY segmentation, found FRACTIONAL"):
        read_segmentation(path, other.grid)
