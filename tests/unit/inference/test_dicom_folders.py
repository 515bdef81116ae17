"""Folders of DICOM series: the same label maps as of the same images in NIfTI, and nothing about the patient."""

import gzip
import json
import logging
import pickle
import shutil
from functools import partial
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from builders.dicom_series import BIRTH_DATE, OBLIQUE, PATIENT, STUDY, convert_with_itk, write_series
from builders.folds import write_trained_fold
from builders.plans import build_channels, build_configuration, build_plan
from builders.progress import Notes

import autoseg
from autoseg.cli.terminal.options import parse_formats
from autoseg.dataset import DatasetRecord
from autoseg.document import read_document, write_document
from autoseg.errors import AutosegError, CasesFailedError, DocumentError, OptionError, PredictionError, VolumeError
from autoseg.inference.options import PredictionOptions
from autoseg.labels import ClassTerms, CodedTerm
from autoseg.plan.document import Plan
from autoseg.processes.case_pool import PoolOutcome
from autoseg.run_folder import RunFolder
from autoseg.volume_io import check_same_grid, read_label_map
from autoseg.volume_io.dicom import find_series, segmentation
from autoseg.workflows.evaluate.evaluation import pair_label_maps
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.importing import import_model
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.predict.found_images import find_predicted_images
from autoseg.workflows.predict.image_tasks import predict_images_in_tasks
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images

OPTIONS = PredictionOptions(mirroring=False)
VOXELS = np.random.default_rng(0).integers(-1000, 1000, size=(9, 11, 12))


@pytest.fixture
def run(tmp_path):
    plan = build_plan({"3d_fullres": build_configuration((8, 8, 8))})
    write_trained_fold(tmp_path / "run", plan, "3d_fullres", fold="0")
    return tmp_path / "run"


def predict(run, images, **choices):
    out, notes = run.parent / "out", Notes()
    request = PredictionRequest(options=OPTIONS, device="cpu", precision="float32", **choices)
    outcome = predict_images(run, images, out, request=request, progress=notes)
    return out, outcome, notes.text


def test_every_series_below_a_folder_gets_the_label_map_of_its_nifti_file(run, tmp_path):
    scans = tmp_path / "scans"
    upright = write_series(scans / "a", VOXELS, number=1)
    oblique = write_series(scans / "b" / "c", VOXELS[::-1], number=2, orientation=OBLIQUE, step_mm=2.5)
    out, outcome, _ = predict(run, scans)
    assert outcome.written == 2
    (tmp_path / "files").mkdir()
    for number, folder in ((1, upright), (2, oblique)):
        convert_with_itk(folder, tmp_path / "files" / f"s{number}.nii.gz")
    request = PredictionRequest(options=OPTIONS, device="cpu", precision="float32")
    predict_images(run, tmp_path / "files", tmp_path / "expected", request=request, progress=Notes())
    for number in (1, 2):
        found = read_label_map(out / f"{STUDY}.{number}.nii.gz")
        expected = read_label_map(tmp_path / "expected" / f"s{number}.nii.gz")
        np.testing.assert_array_equal(found.array, expected.array)
        assert len(np.unique(found.array)) > 1
        check_same_grid(expected.grid, found.grid, what="label maps of one series")


def test_a_series_with_a_defect_is_named_and_the_others_are_predicted(run, tmp_path):
    write_series(tmp_path / "scans", VOXELS, number=1)
    gap = lambda index: (0, 0, 5.0 * (index + (index > 3)))  # noqa: E731 - a place, as the builder takes it
    write_series(tmp_path / "scans", VOXELS, number=2, description="with a gap", place=gap)
    with pytest.raises(CasesFailedError) as caught:
        predict(run, tmp_path / "scans")
    text = str(caught.value)
    assert f"{STUDY}.2: series 2 'with a gap' (CT, 9 slices): expected slices every 5 mm" in text
    assert [path.name for path in (run.parent / "out").glob("*.nii.gz")] == [f"{STUDY}.1.nii.gz"]


def test_a_file_that_cannot_be_read_fails_the_call_and_no_series(run, tmp_path):
    folder = write_series(tmp_path / "scans", VOXELS)
    (folder / "IM9.dcm").write_bytes(b"junk" * 100)
    notes = Notes()
    request = PredictionRequest(options=OPTIONS, device="cpu", precision="float32")
    with pytest.raises(CasesFailedError, match="1 DICOM files cannot be read, so that slices may be missing"):
        predict_images(run, folder, run.parent / "out", request=request, progress=notes)
    assert "IM9.dcm" in notes.text
    assert (run.parent / "out" / f"{STUDY}.1.nii.gz").is_file()


def test_chosen_series_are_predicted_and_finished_ones_kept(run, tmp_path):
    for number, description in ((1, "lung"), (2, "bone"), (3, "lung")):
        write_series(tmp_path / "scans", VOXELS, number=number, description=description)
    _, outcome, notes = predict(run, tmp_path / "scans", series=("2",))
    assert (outcome.written, outcome.kept) == (1, 0)
    assert f"series 2 'bone' (CT, 9 slices) becomes {STUDY}.2.nii.gz" in notes
    shutil.move(tmp_path / "scans", tmp_path / "elsewhere")
    _, outcome, _ = predict(run, tmp_path / "elsewhere")
    assert (outcome.written, outcome.kept) == (2, 1)
    with pytest.raises(AutosegError, match="UID, number or description 'liver', found series 1 'lung'"):
        predict(run, tmp_path / "elsewhere", series=("liver",))


def test_a_single_file_is_a_series_and_not_named_after_the_patient(run, tmp_path):
    (file,) = write_series(tmp_path / PATIENT, VOXELS[:1]).iterdir()
    for name in (f"{PATIENT}.dcm", PATIENT):  # with an ending and without
        shutil.copy(file, tmp_path / PATIENT / name)
        out, _, notes = predict(run, tmp_path / PATIENT / name, overwrite=True)
        assert "series 1 'thorax' (CT, 1 slice) becomes" in notes
        assert (out / f"{STUDY}.1.nii.gz").is_file()
        assert all(PATIENT not in path.name and PATIENT.encode() not in path.read_bytes() for path in out.iterdir())


def test_a_slice_is_as_thick_in_python_as_for_the_command(run, tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
    (file,) = write_series(tmp_path / "scans", VOXELS[:1]).iterdir()
    document = pydicom.dcmread(file)
    document.pop("SpacingBetweenSlices", None)  # ITK may have written one
    document.SliceThickness = "7.5"
    document.save_as(file)
    out, _, _ = predict(run, file)
    found = autoseg.predict_volume(autoseg.load_model(run, device="cpu", precision="float32"), file, options=OPTIONS)
    expected = nib.load(out / f"{STUDY}.1.nii.gz")
    assert found.header.get_zooms() == expected.header.get_zooms() == pytest.approx((0.7, 0.8, 7.5))
    np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())


def test_a_single_file_that_is_no_slice_of_a_volume_is_an_image_like_any_other(run, tmp_path):
    scout = lambda index, tags: tags.update({"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"})  # noqa: E731 - as above
    (file,) = write_series(tmp_path / "scans", VOXELS[:1], change=scout).iterdir()
    out, _, _ = predict(run, file)
    assert read_label_map(out / f"{file.stem}.nii.gz").grid.shape_voxels == (1, *VOXELS.shape[1:])


def test_a_series_that_has_got_further_slices_is_predicted_once_more(run, tmp_path):
    folder = write_series(tmp_path / "scans", VOXELS)
    later = max(find_series(folder).series[0].slices, key=lambda header: header.position_mm[2]).path
    later.rename(tmp_path / later.name)
    out, _, _ = predict(run, tmp_path / "scans")
    assert read_label_map(out / f"{STUDY}.1.nii.gz").array.shape[0] == len(VOXELS) - 1
    (tmp_path / later.name).rename(later)
    _, outcome, notes = predict(run, tmp_path / "scans")
    assert (outcome.written, outcome.kept) == (1, 0)
    assert f"predicted once more, as their images were changed since: {STUDY}.1" in notes
    assert read_label_map(out / f"{STUDY}.1.nii.gz").array.shape[0] == len(VOXELS)


def test_images_of_dicom_that_are_named_as_in_training_keep_their_names(tmp_path):
    plan = build_plan({"3d_fullres": build_configuration((8, 8, 8))}, file_ending=".dcm")
    write_trained_fold(tmp_path / "run", plan, "3d_fullres", fold="0")
    for number, name in ((1, "first"), (2, "second")):
        write_series(tmp_path / "images" / f"{name}_0000.dcm", VOXELS, number=number)
    flat = write_series(tmp_path / "flat", VOXELS[:2])
    out, outcome, _ = predict(tmp_path / "run", tmp_path / "images")
    assert outcome.written == 2
    assert {path.name for path in out.glob("*.nii.gz")} == {"first.nii.gz", "second.nii.gz"}
    for path, name in zip(sorted(flat.iterdir()), ("left_0000.dcm", "right_0000.dcm"), strict=True):
        path.rename(flat / name)  # two images of one series
    shutil.rmtree(out)
    out, _, _ = predict(tmp_path / "run", flat)
    assert {path.name for path in out.glob("*.nii.gz")} == {"left.nii.gz", "right.nii.gz"}


def test_every_channel_of_a_study_is_a_series_that_is_named(tmp_path):
    configuration = build_configuration((8, 8, 8), network={"input_channels": 2})
    channels = build_channels("none", "none", name="MR")
    plan = build_plan({"3d_fullres": configuration}, channels=channels)
    write_trained_fold(tmp_path / "run", plan, "3d_fullres", fold="0")
    for number, description in ((1, "T1"), (2, "T2"), (3, "other")):
        write_series(tmp_path / "scans", VOXELS * number % 500, number=number, description=description)
    out, outcome, notes = predict(tmp_path / "run", tmp_path / "scans", series=("T2", "T1"))
    assert outcome.written == 1
    assert [path.name for path in out.glob("*.nii.gz")] == [f"{STUDY}.2.nii.gz"]
    assert "series 2 'T2' (CT, 9 slices) and series 1 'T1' (CT, 9 slices) becomes" in notes
    with pytest.raises(PredictionError, match="expected --series once for each of the 2 channels of the model"):
        predict(tmp_path / "run", tmp_path / "scans")
    with pytest.raises(PredictionError, match=r"expected one series 'T\*' in every study, found series 1 'T1'"):
        predict(tmp_path / "run", tmp_path / "scans", series=("T*", "T1"))


def test_nothing_that_a_prediction_writes_tells_the_patient(run, tmp_path, caplog):
    pytest.importorskip("highdicom", reason="highdicom is not installed (pip install 'autoseg[dicom]')")
    caplog.set_level(logging.DEBUG)
    sex = {"0010|0040": "Female"}  # not valid, and hinders no result
    write_series(tmp_path / "scans" / PATIENT, VOXELS, number=1, change=lambda _, tags: tags.update(sex))
    write_series(tmp_path / "scans" / PATIENT, VOXELS, number=2, place=lambda index: (0, 0, index // 2))
    (tmp_path / "scans" / PATIENT / f"{PATIENT}.dcm").write_bytes(b"junk" * 100)
    with pytest.raises(CasesFailedError):
        predict(run, tmp_path / "scans", formats=("dicom-seg", "rtstruct"), save_probabilities=True)
    out = run.parent / "out"
    written = [path for root in (out, run) for path in root.rglob("*") if path.is_file()]
    results = [path.name for path in written if path.name.endswith(".dcm")]
    assert sorted(results) == [f"{STUDY}.1.rtstruct.dcm", f"{STUDY}.1.seg.dcm"]
    assert len(written) > 8
    for path in written:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.name.endswith(".gz") else content
        known = b"" if path.name in results else content.lower()
        for secret in ("quakenbush", "ottilie", BIRTH_DATE):
            assert secret not in f"{path.relative_to(tmp_path)}".lower()
            assert secret.encode() not in known, path
    assert "the values of PatientSex have not the form that DICOM demands" in caplog.text
    assert not [secret for secret in ("quakenbush", "female", BIRTH_DATE) if secret in caplog.text.lower()]


def open_place(*, is_detached):
    """A place with workers elsewhere: what they get has been packed."""

    def run_over_cases(work, jobs, **options):
        results = [pickle.loads(pickle.dumps(work))(pickle.loads(pickle.dumps(job))) for _, job in jobs]
        return PoolOutcome(results=tuple(results), failures=())

    return SimpleNamespace(
        is_detached=is_detached,
        run_over_cases=run_over_cases,
        run_tasks=print,
        describe_tasks=print,
        describe_cases=print,
    )


def test_series_are_predicted_by_workers_one_by_one_as_they_are_here(run, tmp_path):
    for number in (1, 2):
        write_series(tmp_path / "scans" / PATIENT, VOXELS[::number], number=number)
    (tmp_path / "scans" / "IM9.dcm").write_bytes(b"junk" * 100)
    request = PredictionRequest(options=OPTIONS, device="cpu", precision="float32", save_probabilities=True)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for out, predict_there in (
        (tmp_path / "here", predict_images),
        (tmp_path / "there", partial(predict_images_in_tasks, place=open_place(is_detached=False))),
    ):
        with pytest.raises(CasesFailedError, match=r"1 of 3 images failed.*\n.*1 DICOM files cannot be read"):
            predict_there(run, tmp_path / "scans", out, request=request, progress=Notes())
    here, there = (
        {path.relative_to(out): path for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "here", tmp_path / "there")
    )
    assert here.keys() == there.keys()
    assert len([path for path in here if path.suffix in (".gz", ".b2nd")]) == 4
    for name, path in here.items():
        if path.suffix in (".gz", ".b2nd"):
            assert path.read_bytes() == there[name].read_bytes()
        assert PATIENT.encode() not in there[name].read_bytes()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_jobs_that_would_keep_the_files_of_series_below_the_run_are_refused(run, tmp_path):
    write_series(tmp_path / "scans", VOXELS)
    request = PredictionRequest(options=OPTIONS, device="cpu", precision="float32")
    with pytest.raises(OptionError, match=r"those of DICOM series may name patients.*--on dask"):
        predict_images_in_tasks(
            run,
            tmp_path / "scans",
            tmp_path / "out",
            request=request,
            place=open_place(is_detached=True),
            progress=Notes(),
        )
    assert not (tmp_path / "out").exists()


def test_a_result_that_is_refused_keeps_no_other_away(run, tmp_path, monkeypatch):
    pytest.importorskip("highdicom", reason="highdicom is not installed (pip install 'autoseg[dicom]')")

    def refuse(*_, **__):
        msg = "no segmentation of this one"
        raise VolumeError(msg)

    monkeypatch.setattr(segmentation, "write", refuse)
    write_series(tmp_path / "scans", VOXELS[:3])
    with pytest.raises(CasesFailedError, match="no segmentation of this one"):
        predict(run, tmp_path / "scans", formats=("dicom-seg", "rtstruct"))
    written = {path.name for path in (run.parent / "out").iterdir() if path.name.startswith(STUDY)}
    assert written == {f"{STUDY}.1.nii.gz", f"{STUDY}.1.rtstruct.dcm"}


def test_a_folder_of_files_and_series_tells_what_is_left_out(run, tmp_path):
    folder = write_series(tmp_path / "mixed" / "series", VOXELS)
    convert_with_itk(folder, tmp_path / "mixed" / "a.nii.gz")
    out, _, notes = predict(run, tmp_path / "mixed")
    assert [path.name for path in out.glob("*.nii.gz")] == ["a.nii.gz"]
    assert "also holds DICOM, which is left out as there are files ending in .nii.gz" in notes
    shutil.rmtree(out)
    out, _, notes = predict(run, tmp_path / "mixed", series=("*",))
    assert [path.name for path in out.glob("*.nii.gz")] == [f"{STUDY}.1.nii.gz"]
    assert "1 files ending in .nii.gz are left out" in notes


def test_formats_of_dicom_are_for_folders_of_dicom(run, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed (pip install 'autoseg[dicom]')")
    folder = write_series(tmp_path / "scans", VOXELS)
    (tmp_path / "files").mkdir()
    convert_with_itk(folder, tmp_path / "files" / "a.nii.gz")
    with pytest.raises(PredictionError, match="holds no series of images"):
        predict(run, tmp_path / "files", formats=("rtstruct",))


LIVER = CodedTerm(scheme="SCT", value="10200004", meaning="Liver")


def write_terms(run, term):
    """Writes what planning would of a dataset whose first class has a term."""
    plan = read_document(run / "plan.json", Plan)
    record = DatasetRecord(
        name="x",
        source="/gone",
        channel_names=("CT",),
        labels=plan.labels,
        file_ending=".nii.gz",
        cases=(),
        terms={plan.labels.classes[0].name: ClassTerms(type=term)},
    )
    write_document(run / "dataset.json", record)
    return [entry.name for entry in plan.labels.classes]


def read_codes(path):
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
    segments = pydicom.dcmread(path).SegmentSequence
    return [segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in segments]


def test_terms_of_dataset_json_stand_in_the_segmentation_also_of_a_model_file(run, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed (pip install 'autoseg[dicom]')")
    names = write_terms(run, LIVER)
    scans = write_series(tmp_path / "scans", VOXELS)
    expected = ["10200004", *(f"CLASS{number}" for number in range(2, len(names) + 1))]
    out, _, _ = predict(run, scans, formats=("dicom-seg",))
    assert read_codes(out / f"{STUDY}.1.seg.dcm") == expected
    for name, source in (("a", run), ("b", tmp_path / "a" / "run")):  # a file, and one of the run that it becomes
        file = tmp_path / name / "model.zip"
        export_model(source, file, ExportRequest(format="autoseg"), progress=Notes())
        import_model(file, tmp_path / name / "run", progress=Notes())
    out, _, _ = predict(tmp_path / "b" / "run", scans, formats=("dicom-seg",))
    assert read_codes(out / f"{STUDY}.1.seg.dcm") == expected


def test_terms_can_be_given_with_a_prediction(run, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed (pip install 'autoseg[dicom]')")
    names = write_terms(run, LIVER)
    scans, path = write_series(tmp_path / "scans", VOXELS), tmp_path / "terms.json"
    given = LIVER.model_dump() | {"value": "78961009", "meaning": "Spleen"}
    path.write_text(json.dumps({names[0]: {"type": given}}))
    out, _, _ = predict(run, scans, formats=("dicom-seg",), terms=path)
    assert read_codes(out / f"{STUDY}.1.seg.dcm")[0] == "78961009"
    path.write_text(json.dumps({f"{names[0]}s": {"type": given}, names[0]: given}))
    with pytest.raises(DocumentError) as caught:
        predict(run, scans, formats=("dicom-seg",), terms=path)
    for part in (f"terms.json: no label has the name '{names[0]}s'", f"terms.json: {names[0]}: type", ", ".join(names)):
        assert part in str(caught.value)
    with pytest.raises(OptionError, match="--terms names the classes in results in DICOM; add --format dicom-seg"):
        predict(run, scans, terms=path)


def test_names_of_classes_are_one_value_of_an_element(run, tmp_path):
    pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
    text = (
        (run / "plan.json").read_text().replace(read_document(run / "plan.json", Plan).labels.class_names[0], r"a\\b\n")
    )
    (run / "plan.json").write_text(text)
    scans = write_series(tmp_path / "scans", VOXELS[:1])
    found = find_predicted_images(scans, RunFolder(run), formats=("rtstruct",), progress=Notes())
    assert read_document(run / "plan.json", Plan).labels.class_names[0] == "a\\b\n"
    assert (found.segments[0].name, found.segments[0].term.meaning) == ("ab", "ab")


def test_results_in_dicom_are_no_label_maps_to_be_evaluated(tmp_path):
    for name in ("out/1.2.nii.gz", "out/1.2.seg.dcm", "out/1.2.rtstruct.dcm", "references/1.2.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pairs = pair_label_maps(tmp_path / "out", tmp_path / "references")
    assert pairs == [("1.2", tmp_path / "out" / "1.2.nii.gz", tmp_path / "references" / "1.2.nii.gz")]


def test_formats_are_named_as_the_command_takes_them():
    assert parse_formats(["rtstruct", "dicom-seg", "rtstruct"]) == ("rtstruct", "dicom-seg")
    with pytest.raises(OptionError, match=r"takes dicom-seg or rtstruct, found 'seg'"):
        parse_formats(["seg"])
