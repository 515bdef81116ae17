"""Series in folders: which there are, where their slices lie, and what is wrong with some."""

import copy
import errno
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from builders.dicom_series import (
    OBLIQUE,
    PATIENT,
    SAGITTAL,
    STUDY,
    UPRIGHT,
    convert_with_itk,
    place_slices,
    write_enhanced,
    write_series,
)

from autoseg.errors import VolumeError
from autoseg.volume_io import check_same_grid, read_grid, read_image, write_image
from autoseg.volume_io.dicom import find_series, read_stack, select_series, stack_slices
from autoseg.volume_io.dicom.headers import find_object_kind

VOXELS = np.random.default_rng(3).integers(-1000, 1000, size=(5, 4, 6))


def read(folder):
    (series,) = find_series(folder).series
    return read_stack(stack_slices(series))


def explain(folder):
    (series,) = find_series(folder).series
    with pytest.raises(VolumeError) as caught:
        stack_slices(series)
    return str(caught.value)


@pytest.mark.parametrize(
    ("orientation", "step_mm"), [(UPRIGHT, 5.0), (UPRIGHT, -5.0), (OBLIQUE, 2.5), (SAGITTAL, 1.25)]
)
def test_a_series_is_the_volume_that_itk_makes_of_it(tmp_path, orientation, step_mm):
    folder = write_series(tmp_path / "s", VOXELS, orientation=orientation, step_mm=step_mm)
    volume, expected = read(folder), read_image([convert_with_itk(folder, tmp_path / "s.nii.gz")])
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_array_equal(volume.array[0], VOXELS[:: 1 if step_mm > 0 else -1])
    assert volume.grid.spacing_mm == expected.grid.spacing_mm
    check_same_grid(expected.grid, volume.grid, what="a series and its NIfTI file")


@pytest.mark.parametrize("orientation", [UPRIGHT, OBLIQUE])
def test_a_series_lies_where_dcm2niix_sees_it(tmp_path, orientation):
    converter = pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (pip install dcm2niix)").bin
    folder = write_series(tmp_path / "s", VOXELS, orientation=orientation)
    command = [converter, "-z", "n", "-b", "n", "-f", "theirs", "-o", str(tmp_path), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    volume = read(folder)
    write_image(tmp_path / "ours.nii", volume.array[0], grid=volume.grid)
    ours, theirs = (nib.as_closest_canonical(nib.load(tmp_path / f"{who}.nii")) for who in ("ours", "theirs"))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())


def test_every_slice_is_rescaled_by_its_own_header(tmp_path):
    def change(index, tags):
        tags["0028|1053"] = str(1 + index % 3)
        tags["0028|1052"] = "0"

    folder = write_series(tmp_path / "s", VOXELS * 6, change=change)
    np.testing.assert_array_equal(read(folder).array[0], VOXELS * 6)


def test_slices_whose_positions_are_rounded_are_a_volume(tmp_path):
    folder = write_series(tmp_path / "s", VOXELS, place=lambda index: (0, 0, round(index * 0.625, 1)))
    assert read(folder).grid.spacing_mm[0] == pytest.approx(0.625)


def shift(index):
    return np.array([0.0, 2.0 * index, 5.0 * index])


def skip_a_slice(index):
    return (0, 0, 5.0 * (index + (index > 2)))


def stop_at_two_places(index):
    return (0, 0, 5.0 * (index // 2))


def turn_some(index, tags):
    if index > 2:
        tags["0020|0037"] = "0\\1\\0\\0\\0\\-1"


def give_one_identifier(index, tags):
    tags["0008|0018"] = f"{STUDY}.1.1"


@pytest.mark.parametrize(
    ("place", "change", "expected"),
    [
        (
            skip_a_slice,
            None,
            "expected slices every 5 mm, found 1 other distances, such as 10 mm between instances 3, 4",
        ),
        (stop_at_two_places, None, "expected one image at every position, found 5 images at 3 positions"),
        (shift, None, "tilted by 21.8 degrees (8.0 mm over the whole stack)"),
        (None, turn_some, "expected slices of one orientation, found 2 (3 axial, 2 sagittal)"),
        (None, give_one_identifier, "expected a UID of its own (SOPInstanceUID) in every slice, found 1 in 5 slices"),
    ],
)
def test_slices_that_are_no_volume_are_refused_with_advice(tmp_path, place, change, expected):
    keep = change or (lambda index, tags: None)
    text = explain(write_series(tmp_path / "s", VOXELS, place=place, change=keep))
    assert expected in text
    assert any(advice in text for advice in ("export", "copy the series again", "dcm2niix"))


def test_slices_without_a_place_are_refused(tmp_path):
    (series,) = find_series(write_series(tmp_path, VOXELS)).series
    first, *others = series.slices
    lost = replace(series, slices=(replace(first, position_mm=None), *others))
    with pytest.raises(VolumeError, match=rf"but instance {first.instance_number} lacks one of them; leave out"):
        stack_slices(lost)


def test_several_multi_frame_files_in_a_series_are_refused(tmp_path):
    (series,) = find_series(write_series(tmp_path, VOXELS)).series
    first, *others = series.slices
    with pytest.raises(VolumeError, match="found 5 files, of which some hold several frames; export"):
        stack_slices(replace(series, slices=(replace(first, frame_count=3), *others)))


def test_slices_of_two_sizes_are_refused(tmp_path):
    write_series(tmp_path / "s", VOXELS)
    write_series(tmp_path / "t", VOXELS[:2, :3], change=lambda i, tags: tags.update({"0008|0018": f"{STUDY}.8.{i}"}))
    assert "expected slices of one size and pixel spacing, found 5 of 4 x 6" in explain(tmp_path)


def test_spacings_that_were_rounded_differently_are_one(tmp_path):
    (series,) = find_series(write_series(tmp_path, VOXELS)).series
    first, *others = series.slices
    rounded = tuple(spacing * (1 + 5e-5) for spacing in first.spacing_mm_yx)
    stack = stack_slices(replace(series, slices=(replace(first, spacing_mm_yx=rounded), *others)))
    assert stack.grid.spacing_mm[1:] == pytest.approx(first.spacing_mm_yx, rel=1e-4)
    coarse = tuple(spacing * 1.01 for spacing in first.spacing_mm_yx)
    with pytest.raises(VolumeError, match="expected slices of one size and pixel spacing, found"):
        stack_slices(replace(series, slices=(replace(first, spacing_mm_yx=coarse), *others)))


def test_what_is_no_slice_of_a_volume_is_left_out_with_a_line(tmp_path):
    write_series(tmp_path / "s", VOXELS)
    scout = {"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}
    write_series(tmp_path / "scout", VOXELS[:2], number=2, change=lambda index, tags: tags.update(scout))
    shutil.copytree(tmp_path / "s", tmp_path / "again")
    colours = SimpleITK.GetImageFromArray(np.zeros((3, 4, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colours, str(tmp_path / "picture.dcm"))
    meta = b"\x02\x00\x02\x00UI\x1e\x001.2.840.10008.5.1.4.1.1.481.3\x00"
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM" + meta + b"the rest")
    (tmp_path / "notes.txt").write_text("no DICOM")
    found = find_series(tmp_path)
    assert [series.uid for series in found.series] == [f"{STUDY}.1"]
    assert len(found.series[0].slices) == len(VOXELS)
    assert not found.unreadable
    (note,) = found.notes
    for kind in ("2 x localizer", "5 x copy of an image", "1 x colour image", "1 x structure set"):
        assert kind in note


@pytest.mark.parametrize(
    ("number", "kind"),
    [("66.3", "registration"), ("66.5", "segmentation"), ("66.7", "segmentation"), ("67", "map of real-world values")],
)
def test_objects_that_refer_to_images_are_no_images(tmp_path, number, kind):
    sop_class = f"1.2.840.10008.5.1.4.1.1.{number}".encode()
    length = len(sop_class).to_bytes(2, "little")
    path = tmp_path / "IM1"
    path.write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x02\x00UI" + length + sop_class + b"the rest")
    assert find_object_kind(path) == kind


def test_files_that_cannot_be_read_are_told_from_those_that_are_no_image(tmp_path):
    write_series(tmp_path, VOXELS)
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"junk" * 50)
    found = find_series(tmp_path)
    assert [path.name for path in found.unreadable] == ["broken.dcm"]


@pytest.mark.parametrize("name", ["IM1", "IM1.dcm"])
def test_a_slice_whose_file_is_gone_or_closed_is_not_left_out(tmp_path, name):
    write_series(tmp_path, VOXELS)
    (tmp_path / name).symlink_to(tmp_path / "gone")  # such as content that git-annex has not fetched
    found = find_series(tmp_path)
    assert [path.name for path in found.unreadable] == [name]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write_series(tmp_path / "a", VOXELS)
    write_series(tmp_path / "b", VOXELS[:2])
    scandir = os.scandir

    def list_all_but_one(path):
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", list_all_but_one)
    found = find_series(tmp_path)
    assert [len(series.slices) for series in found.series] == [len(VOXELS)]
    assert found.unreadable.keys() == {tmp_path / "b"}
    assert "b cannot be listed: Permission denied; ask for permission" in found.unreadable[tmp_path / "b"]


def test_identifiers_that_could_be_paths_are_refused(tmp_path):
    change = {"0020|000e": "../../x"}
    write_series(tmp_path, VOXELS[:1], change=lambda index, tags: tags.update(change))
    (reason,) = find_series(tmp_path).unreadable.values()
    assert "expected identifiers (UIDs) of digits and dots" in reason


def test_series_are_selected_by_identifier_number_and_description(tmp_path):
    for number, description in ((3, "T2 FLAIR"), (11, "T1 post"), (2, "T1 pre"), (7, "T1 [a]")):
        write_series(tmp_path, VOXELS[:2], number=number, description=description)
    series = find_series(tmp_path).series
    assert [one.number for one in series] == ["2", "3", "7", "11"]
    for wanted, numbers in (
        (f"{STUDY}.11", ["11"]),
        ("3", ["3"]),
        ("t2 flair", ["3"]),
        ("T1*", ["2", "7", "11"]),
        ("T1 [a]", ["7"]),
    ):
        assert [one.number for one in select_series(series, wanted)] == numbers
    with pytest.raises(VolumeError, match=r"'PD', found series 2 'T1 pre' \(CT, 2 slices\), series 3"):
        select_series(series, "PD")


def test_a_multi_frame_file_is_the_volume_of_the_same_slices(tmp_path):
    pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
    places = [place_slices(UPRIGHT, 5.0)(index) for index in range(len(VOXELS))]
    write_enhanced(tmp_path / "IM1", VOXELS, places)
    write_series(tmp_path / "s", VOXELS)
    volume, expected = read(tmp_path / "IM1"), read(tmp_path / "s")
    np.testing.assert_array_equal(volume.array, expected.array)
    check_same_grid(expected.grid, volume.grid, what="a multi-frame file and a series")


@pytest.mark.parametrize(
    ("told", "step_mm"),
    [
        ({"SliceThickness": "5"}, 5.0),
        ({"SliceThickness": "5", "SpacingBetweenSlices": "6.5"}, 6.5),
        ({"SliceThickness": "0"}, 1.0),
        ({"SliceThickness": ""}, 1.0),
        ({}, 1.0),
    ],
)
def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path, told, step_mm):
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
    (path,) = write_series(tmp_path, VOXELS[:1]).iterdir()
    document = pydicom.dcmread(path)
    for name in ("SliceThickness", "SpacingBetweenSlices"):
        document.pop(name, None)  # ITK may have written one
    for name, value in told.items():
        setattr(document, name, value)
    document.save_as(path)
    (series,) = find_series(tmp_path).series
    assert stack_slices(series).grid.spacing_mm == pytest.approx((step_mm, 0.8, 0.7))
    np.testing.assert_array_equal(read_stack(stack_slices(series)).array[0], VOXELS[:1])


def test_frames_are_a_volume_where_single_slices_are(tmp_path):
    """Of another order, and at positions with one digit after the point."""
    pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
    place = lambda index: (0, 0, round(index * 0.625, 1))  # noqa: E731 - a place, as the builder takes it
    order = [0, 2, 4, 1, 3]
    write_enhanced(tmp_path / "IM1", VOXELS[order], [place(index) for index in order])
    expected = read(write_series(tmp_path / "s", VOXELS, place=place))
    volume = read(tmp_path / "IM1")
    np.testing.assert_array_equal(volume.array, expected.array)
    assert volume.grid == expected.grid


def test_a_multi_frame_series_that_is_refused_is_named_without_its_path(tmp_path):
    pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
    folder = tmp_path / PATIENT
    folder.mkdir()
    write_enhanced(folder / "IM1", VOXELS, [(0, 0, index % 3) for index in range(len(VOXELS))])
    text = explain(folder)
    assert text.startswith("instance 1: expected one image at every position, found 5 images at 3 positions")
    assert PATIENT not in text


def test_a_tilted_multi_frame_file_is_refused(tmp_path):
    pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
    write_enhanced(tmp_path / "a.dcm", VOXELS, [shift(index) for index in range(len(VOXELS))])
    with pytest.raises(VolumeError, match=r"tilted by 21\.8 degrees"):
        read_grid(tmp_path / "a.dcm")


def test_frames_that_are_rescaled_or_spaced_differently_are_refused(tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
    path = write_enhanced(tmp_path / "a.dcm", VOXELS, [(0, 0, index) for index in range(len(VOXELS))])
    document = pydicom.dcmread(path)
    slopes = [frame.PixelValueTransformationSequence[0] for frame in document.PerFrameFunctionalGroupsSequence]
    slopes[1].RescaleSlope = "1.0"  # the same number
    document.save_as(path)
    read_grid(path)
    slopes[2].RescaleSlope = 2
    document.save_as(path)
    with pytest.raises(VolumeError, match="expected one rescaling for all frames, found 2"):
        read_grid(path)
    shared = document.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    slopes[2].RescaleSlope = 1
    for index, frame in enumerate(document.PerFrameFunctionalGroupsSequence):
        frame.PixelMeasuresSequence = copy.deepcopy(shared)
        frame.PixelMeasuresSequence[0].PixelSpacing = [0.8, 0.7 + 0.1 * (index == 2)]
    document.save_as(path)
    with pytest.raises(VolumeError, match="expected one pixel spacing for all frames, found 2"):
        read_grid(path)


def test_a_folder_named_like_a_file_is_the_image_of_its_only_series(tmp_path):
    folder = write_series(tmp_path / "case_0000.dcm", VOXELS)
    volume = read_image([folder])
    np.testing.assert_array_equal(volume.array[0], VOXELS)
    assert volume.grid == read_grid(folder)
    write_series(folder / "inner", VOXELS[:2], number=2)
    with pytest.raises(VolumeError, match=r"case_0000\.dcm: expected one series of slices.*found series 1"):
        read_grid(folder)


def test_a_damaged_slice_in_such_a_folder_is_named(tmp_path):
    folder = write_series(tmp_path / "case_0000.dcm", VOXELS)
    (folder / "IM9.dcm").write_bytes(b"junk" * 100)
    with pytest.raises(VolumeError, match=r"1 files cannot be read, such as IM9\.dcm"):
        read_image([folder])


def test_texts_of_headers_are_shown_without_what_could_steer_a_terminal(tmp_path):
    texts = {"0020|0011": "1", "0008|103e": "a\x1b[2Jb", "0008|0060": "C\x07", "0020|0013": "x"}
    write_series(tmp_path, VOXELS[:1], change=lambda index, tags: tags.update(texts))
    (series,) = find_series(tmp_path).series
    assert series.describe() == r"series 1 'a\x1b[2Jb' (no modality, 1 slice)"
    assert series.slices[0].instance_number == ""


@pytest.mark.parametrize("stored", [b"Sch\xe4del", b"Sch\xc3\xa4del"], ids=["Latin-1", "Unicode"])
def test_descriptions_are_read_in_both_usual_encodings(tmp_path, stored):
    folder = write_series(tmp_path, VOXELS[:1], description="?" * len(stored))
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"?" * len(stored), stored))
    (series,) = find_series(tmp_path).series
    assert series.description == "Schädel"
