"""Segmentations and structure sets, read back by position with pydicom, as other programs do."""

import shutil
import subprocess
import warnings

import numpy as np
import pytest
from builders.dicom_series import (
    BIRTH_DATE,
    OBLIQUE,
    PATIENT,
    STUDY,
    UPRIGHT,
    place_slices,
    write_enhanced,
    write_series,
)
from scipy.ndimage import gaussian_filter
from skimage.measure import points_in_poly

from autoseg.errors import PredictionError, VolumeError
from autoseg.volume_io.dicom import (
    Code,
    Segment,
    SegmentedBy,
    check_dicom_libraries,
    find_series,
    segmentation,
    stack_slices,
    structure_set,
)
from autoseg.volume_io.dicom.outlines import trace_outlines

WHY = "highdicom and pydicom are not installed (pip install 'autoseg[dicom]')"
SHAPE = (7, 18, 22)
ENHANCED = {"enhanced": range(SHAPE[0]), "interleaved": (0, 2, 4, 6, 1, 3, 5)}
"""Places of the frames of multi-frame files."""
STRUCTURE = Code(scheme="SCT", value="123037004", meaning="Anatomical Structure")
LIVER = Code(scheme="SCT", value="10200004", meaning="Liver")
OWN = Code(scheme="99AUTOSEG", value="CLASS2", meaning="tumour")
SEGMENTS = (
    Segment(name="liver", values=(1,), category=STRUCTURE, term=LIVER),
    Segment(name="tumour", values=(2,), category=STRUCTURE, term=OWN),
)
MADE_BY = SegmentedBy(version="1.0", model="balls", weights="0123456789abcdef" * 4)


@pytest.fixture
def pydicom():
    pytest.importorskip("highdicom", reason=WHY)
    return pytest.importorskip("pydicom", reason=WHY)


def make_label_map():
    """Smooth shapes, noise in slice 4, and nothing in the first slices."""
    random = np.random.default_rng(1)
    smooth = gaussian_filter(random.normal(size=SHAPE), (1, 2, 2))
    label_map = np.digitize(smooth, [smooth.std() * 0.5, smooth.std() * 1.2]).astype(np.uint8)
    label_map[4] = random.integers(0, 3, SHAPE[1:])
    label_map[:2] = 0
    return label_map


def make_stack(folder, *, kind="oblique"):
    voxels = np.zeros(SHAPE, np.int16)
    if kind in ENHANCED:
        write_enhanced(folder / "IM1", voxels, [place_slices(UPRIGHT, 5.0)(index) for index in ENHANCED[kind]])
    else:
        write_series(folder, voxels, orientation=OBLIQUE if kind == "oblique" else UPRIGHT, step_mm=2.5)
    (series,) = find_series(folder).series
    return stack_slices(series)


def find_index(points, grid):
    """The place in the array (x, y, z) of points in DICOM's world."""
    world = np.asarray(points, dtype=np.float64).reshape(-1, 3) * [-1, -1, 1]
    return (np.column_stack([world, np.ones(len(world))]) @ np.linalg.inv(grid.affine).T)[:, :3]


def read_segments(document, grid):
    """One mask a segment, frame by frame where it lies."""
    masks = np.zeros((len(document.SegmentSequence), *grid.shape_voxels), bool)
    frames = document.pixel_array.reshape(-1, *grid.shape_voxels[1:])
    for frame, pixels in zip(document.PerFrameFunctionalGroupsSequence, frames, strict=True):
        ((x, y, z),) = find_index(frame.PlanePositionSequence[0].ImagePositionPatient, grid)
        np.testing.assert_allclose([x, y, z - round(z)], 0, atol=1e-3)
        masks[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1, round(z)] |= pixels > 0
    return masks


def check_source(document, stack):
    """Patient and study are those of the source, and every slice with something in it is referred to."""
    assert (str(document.PatientName), document.PatientBirthDate) == (PATIENT, BIRTH_DATE)
    assert document.StudyInstanceUID == STUDY
    assert document.SeriesInstanceUID != stack.slices[0].series


@pytest.mark.parametrize("kind", ["oblique", "enhanced", "interleaved"])
def test_a_segmentation_gives_back_every_voxel_where_it_lies(tmp_path, pydicom, kind):
    stack, label_map = make_stack(tmp_path, kind=kind), make_label_map()
    segmentation.write(tmp_path / "a.seg.dcm", label_map, stack, segments=SEGMENTS, made_by=MADE_BY)
    document = pydicom.dcmread(tmp_path / "a.seg.dcm")
    for number, mask in enumerate(read_segments(document, stack.grid), start=1):
        np.testing.assert_array_equal(mask, label_map == number)
    check_source(document, stack)
    referred = {
        item.ReferencedSOPInstanceUID for item in document.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referred == {header.instance for header in stack.slices}
    for frame in document.PerFrameFunctionalGroupsSequence if kind in ENHANCED else ():
        ((_, _, z),) = find_index(frame.PlanePositionSequence[0].ImagePositionPatient, stack.grid)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert ENHANCED[kind][source.ReferencedFrameNumber - 1] == round(z)


def test_segments_have_their_terms_and_name_the_algorithm(tmp_path, pydicom):
    stack = make_stack(tmp_path)
    segmentation.write(tmp_path / "a.seg.dcm", make_label_map(), stack, segments=SEGMENTS, made_by=MADE_BY)
    document = pydicom.dcmread(tmp_path / "a.seg.dcm")
    assert document.SegmentationType == "BINARY"
    for segment, expected in zip(document.SegmentSequence, SEGMENTS, strict=True):
        code = segment.SegmentedPropertyTypeCodeSequence[0]
        assert (code.CodeValue, code.CodingSchemeDesignator) == (expected.term.value, expected.term.scheme)
        assert segment.SegmentLabel == expected.name
        assert segment.SegmentAlgorithmName == "autoseg"
    assert document.DeviceSerialNumber == MADE_BY.weights[:16]


def test_regions_that_overlap_are_segments_that_overlap(tmp_path, pydicom):
    whole = Segment(name="whole", values=(1, 2), category=STRUCTURE, term=LIVER)
    stack, label_map = make_stack(tmp_path), make_label_map()
    segmentation.write(tmp_path / "a.seg.dcm", label_map, stack, segments=(whole, SEGMENTS[1]), made_by=MADE_BY)
    masks = read_segments(pydicom.dcmread(tmp_path / "a.seg.dcm"), stack.grid)
    np.testing.assert_array_equal(masks[0], label_map > 0)
    np.testing.assert_array_equal(masks[1], label_map == 2)


@pytest.mark.parametrize("module", [segmentation, structure_set])
def test_a_label_map_without_foreground_is_a_valid_result(tmp_path, pydicom, module):
    stack = make_stack(tmp_path)
    module.write(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint8), stack, segments=SEGMENTS, made_by=MADE_BY)
    document = pydicom.dcmread(tmp_path / "a.dcm")
    if module is segmentation:
        assert not document.pixel_array.any()
    else:
        assert not any("ContourSequence" in region for region in document.ROIContourSequence)


def test_the_segmentation_of_a_single_slice_is_as_thick_as_that(tmp_path, pydicom):
    (path,) = write_series(tmp_path / "one", np.zeros((1, *SHAPE[1:]), np.int16)).iterdir()
    source = pydicom.dcmread(path)
    source.SliceThickness = 3.5
    source.pop("SpacingBetweenSlices", None)
    source.save_as(path)
    stack = stack_slices(*find_series(tmp_path / "one").series)
    segmentation.write(tmp_path / "a.seg.dcm", make_label_map()[4:5], stack, segments=SEGMENTS, made_by=MADE_BY)
    shared = pydicom.dcmread(tmp_path / "a.seg.dcm").SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert stack.grid.spacing_mm[0] == measures.SliceThickness == measures.SpacingBetweenSlices == 3.5


@pytest.mark.parametrize("kind", ["oblique", "enhanced", "interleaved"])
def test_a_structure_set_gives_back_voxels_and_volumes(tmp_path, pydicom, kind):
    stack, label_map = make_stack(tmp_path, kind=kind), make_label_map()
    structure_set.write(tmp_path / "a.dcm", label_map, stack, segments=SEGMENTS, made_by=MADE_BY)
    document = pydicom.dcmread(tmp_path / "a.dcm")
    check_source(document, stack)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    centres = np.column_stack([x.ravel(), y.ravel()])
    for number, region in enumerate(document.ROIContourSequence, start=1):
        mask, area = np.zeros(SHAPE, bool), 0.0
        for contour in region.ContourSequence:
            corners = find_index(contour.ContourData, stack.grid)
            index = round(corners[0, 2])
            np.testing.assert_allclose(corners[:, 2], index, atol=1e-3)
            mask[index] ^= points_in_poly(centres, corners[:, :2]).reshape(SHAPE[1:])
            columns, rows = corners[:, 0], corners[:, 1]
            area += abs(np.sum(columns * np.roll(rows, -1) - rows * np.roll(columns, -1))) / 2
            reference = contour.ContourImageSequence[0]
            if kind in ENHANCED:
                assert ENHANCED[kind][reference.ReferencedFrameNumber - 1] == index
            else:
                assert reference.ReferencedSOPInstanceUID == stack.slices[index].instance
        np.testing.assert_array_equal(mask, label_map == number)
        assert area == pytest.approx(np.count_nonzero(label_map == number), rel=1e-3)


@pytest.mark.parametrize("kind", ["oblique", "enhanced"])
@pytest.mark.parametrize("module", [segmentation, structure_set])
def test_a_validator_finds_no_error(tmp_path, pydicom, module, kind):
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (apt install dicom3tools)")
    stack = make_stack(tmp_path, kind=kind)
    for name, label_map in (("a.dcm", make_label_map()), ("empty.dcm", np.zeros(SHAPE, np.uint8))):
        module.write(tmp_path / name, label_map, stack, segments=SEGMENTS, made_by=MADE_BY)
        command = [program, "-new", str(tmp_path / name)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr, said.stderr


@pytest.mark.parametrize(
    "rows",
    [
        ["1"],
        ["10", "01"],
        ["111", "101", "111"],
        ["11111", "10101", "11111", "10001", "11111"],
        ["1111", "1011", "1101", "1111"],
        ["11111", "10001", "10101", "10001", "11111"],
    ],
    ids=["pixel", "diagonal", "hole", "holes", "diagonal holes", "island in a hole"],
)
def test_outlines_enclose_exactly_the_area_of_the_mask(rows):
    mask = np.array([[letter == "1" for letter in row] for row in rows])
    outlines = trace_outlines(mask)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    centres = np.column_stack([y.ravel(), x.ravel()]) + 0.5
    inside = sum(points_in_poly(centres, outline).astype(int) for outline in outlines)
    np.testing.assert_array_equal(inside.reshape(mask.shape), mask)


def test_a_missing_library_is_named_with_the_extra_that_brings_it():
    with pytest.raises(PredictionError, match=r"--format x needs no_such_library.*pip install 'autoseg\[dicom\]'"):
        check_dicom_libraries(("pathlib", "no_such_library"), what="--format x")


def change_headers(folder, **values):
    """Writes a series of which some elements have other values, or are missing; nothing checks them."""
    import pydicom

    write_series(folder, np.zeros((2, 4, 5)))
    with pydicom.config.disable_value_validation():
        for path in folder.iterdir():
            source = pydicom.dcmread(path)
            for keyword, value in values.items():
                if value is None:
                    del source[keyword]
                else:
                    setattr(source, keyword, value)
            source.save_as(path)
    return folder


@pytest.mark.parametrize("module", [segmentation, structure_set])
def test_values_that_are_not_valid_are_left_out_and_named_without_the_patient(pydicom, tmp_path, caplog, module):
    values = {"PatientSex": "Female", "PatientBirthDate": "4 May 1931", "PatientAge": "old", "PatientName": "Ottilie"}
    folder = change_headers(tmp_path / "series", **values, StudyTime="noon", PatientWeight="81.5")
    (series,) = find_series(folder).series
    path, label_map = tmp_path / "x.dcm", np.ones((2, 4, 5), np.uint8)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        module.write(path, label_map, stack_slices(series), segments=SEGMENTS, made_by=MADE_BY)
    document = pydicom.dcmread(path)
    assert {document.get(keyword) for keyword in ("PatientSex", "PatientBirthDate", "StudyTime")} == {""}
    assert "PatientAge" not in document
    assert document.PatientName == "Ottilie"
    assert document.StudyDate == "20260105"
    if module is segmentation:
        assert document.PatientWeight == 81.5
    (told,) = [record.getMessage() for record in caplog.records]
    assert "StudyTime, PatientBirthDate, PatientSex, PatientAge have not the form" in told
    assert not [value for value in values.values() if value in told]
    assert shown == []  # they would tell the name of one word
    check_values(document)


def check_values(document):
    """Every value has the form of its value representation."""
    import pydicom

    checked = 0
    for element in document.iterall():
        values = element.value if element.VM > 1 else [element.value]
        for value in values if element.VR != "SQ" else []:
            text = str(value) if element.VR in ("DS", "IS") else value
            pydicom.valuerep.validate_value(element.VR, text, pydicom.config.RAISE)
            checked += 1
    assert checked > 40


@pytest.mark.parametrize("kind", ["oblique", "enhanced"])
@pytest.mark.parametrize("module", [segmentation, structure_set])
def test_pydicom_finds_every_value_valid(tmp_path, pydicom, module, kind):
    stack = make_stack(tmp_path, kind=kind)
    module.write(tmp_path / "a.dcm", make_label_map(), stack, segments=SEGMENTS, made_by=MADE_BY)
    check_values(pydicom.dcmread(tmp_path / "a.dcm"))


@pytest.mark.parametrize(
    ("writer", "keyword", "value"),
    [
        (segmentation, "FrameOfReferenceUID", None),
        (structure_set, "FrameOfReferenceUID", None),
        (segmentation, "StudyInstanceUID", "QUAKENBUSH"),
        (structure_set, "StudyInstanceUID", "QUAKENBUSH"),
    ],
)
def test_headers_that_cannot_be_repeated_are_refused_without_their_values(pydicom, tmp_path, *, writer, keyword, value):
    (series,) = find_series(change_headers(tmp_path, **{keyword: value})).series
    label_map = np.ones((2, 4, 5), np.uint8)
    with pytest.raises(VolumeError, match=keyword) as caught:
        writer.write(tmp_path / "x.dcm", label_map, stack_slices(series), segments=SEGMENTS, made_by=MADE_BY)
    assert "QUAKENBUSH" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("writer", [segmentation, structure_set])
def test_names_of_classes_and_patients_have_letters_of_any_script(pydicom, tmp_path, writer):
    folder = write_series(tmp_path / "series", np.zeros((2, 4, 5)))
    for path in folder.iterdir():
        source = pydicom.dcmread(path)
        source.SpecificCharacterSet, source.PatientName = "ISO_IR 100", "Müller^Jörg"
        source.save_as(path)
    (series,) = find_series(folder).series
    term = Code(scheme="99AUTOSEG", value="CLASS1", meaning="Lebergefäß 肝")
    segment = Segment(name="Lebergefäß 肝", values=(1,), category=STRUCTURE, term=term)
    path, label_map = tmp_path / "x.dcm", np.ones((2, 4, 5), np.uint8)
    writer.write(path, label_map, stack_slices(series), segments=[segment], made_by=MADE_BY)
    document = pydicom.dcmread(path)
    assert document.PatientName == "Müller^Jörg"
    names = document.get("SegmentSequence") or document.StructureSetROISequence
    assert (names[0].get("SegmentLabel") or names[0].ROIName) == "Lebergefäß 肝"
    content = path.read_bytes()
    assert "Lebergefäß 肝".encode() in content
    assert "Müller^Jörg".encode() in content
