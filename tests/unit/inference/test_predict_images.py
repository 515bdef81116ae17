"""Whole folders of images: stages that overlap, failures, what is recorded."""

import os
import subprocess
import sys

import blosc2
import nibabel as nib
import numpy as np
import pytest
from builders.folds import write_trained_fold
from builders.full_device import FullDeviceEnsemble
from builders.labels import build_labels
from builders.listings import count_listings
from builders.plans import build_configuration, build_plan
from builders.progress import Notes

from autoseg.dataset import Case
from autoseg.document import read_document, write_document
from autoseg.errors import CasesFailedError, PredictionError, RunError
from autoseg.geometry import Grid
from autoseg.inference import model
from autoseg.inference.ensemble import load_ensemble
from autoseg.inference.execution.compiled_network import find_compiler
from autoseg.inference.execution.openvino_network import find_openvino_version
from autoseg.inference.model import load_model
from autoseg.inference.options import PredictionOptions, Workload
from autoseg.networks import read_weights
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_image, read_label_map, write_image
from autoseg.workflows.predict import prediction
from autoseg.workflows.predict.found_images import ImageFiles
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.predict.prediction_folder import PredictionRecord

GRID = Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.5, 1.0))
OPTIONS = PredictionOptions(mirroring=False)


@pytest.fixture
def run(tmp_path):
    plan = build_plan({"3d_fullres": build_configuration((8, 8, 8))})
    write_trained_fold(tmp_path / "run", plan, "3d_fullres", fold="0")
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for index in range(4):
        image = random.normal(size=GRID.shape_voxels).astype(np.float32)
        write_image(tmp_path / "images" / f"case{index}_0000.nii.gz", image, grid=GRID)
    return tmp_path / "images"


def predict(run, images, *, load=load_ensemble, **choices):
    out = run.parent / "out"
    request = PredictionRequest(options=OPTIONS, device="cpu", **choices)
    return out, predict_images(run, images, out, request=request, progress=SilentProgress(), load=load)


def test_a_model_whose_regions_hide_each_other_predicts_with_a_warning(tmp_path, images):
    labels = build_labels({"core": (2,), "whole": (1, 2)}, region_write_values=(2, 1))
    configuration = build_configuration((8, 8, 8), network={"output_channels": 2})
    write_trained_fold(
        tmp_path / "run", build_plan({"3d_fullres": configuration}, labels=labels), "3d_fullres", fold="0"
    )
    notes = Notes()
    request = PredictionRequest(options=OPTIONS, device="cpu")
    predict_images(tmp_path / "run", images, tmp_path / "out", request=request, progress=notes)
    assert "2 (core, whole) is written as 1 (whole)" in notes.text


def test_overlapping_stages_write_what_one_image_after_the_other_gives(run, images):
    out, outcome = predict(run, images, precision="float32")
    assert outcome.written == 4
    loaded = load_model(run, device="cpu", precision="float32")
    for index in range(4):
        volume = read_image([images / f"case{index}_0000.nii.gz"])
        expected = loaded.predict_volume(volume.array, volume.grid, options=OPTIONS)
        np.testing.assert_array_equal(read_label_map(out / f"case{index}.nii.gz").array, expected)


def test_a_full_device_is_announced_and_quality_is_measured_in_ram(run, images, caplog):
    def load_full(*args, **options):
        return FullDeviceEnsemble(members=load_ensemble(*args, **options).members)

    out, _ = predict(run, images)
    expected = {path.name: path.read_bytes() for path in (*out.glob("*.nii.gz"), out / "quality.json")}
    predict(run, images, load=load_full, overwrite=True)
    assert {name: (out / name).read_bytes() for name in expected} == expected
    assert caplog.text.count("ran out of memory; measuring its quality on the CPU") == len(expected) - 1


def test_weights_are_read_once_for_all_images(run, images, monkeypatch):
    paths = []

    def watch(path, wanted):
        paths.append(path)
        return read_weights(path, wanted)

    monkeypatch.setattr(model, "read_weights", watch)
    assert predict(run, images)[1].written == 4
    assert paths == [RunFolder(run).fold("3d_fullres", "0").final_checkpoint]


def test_an_image_that_fails_does_not_stop_the_others(run, images):
    (images / "case1_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(CasesFailedError, match=r"1 of 4 images failed; the others are written"):
        predict(run, images)
    assert sorted(path.name for path in (run.parent / "out").glob("*.nii.gz")) == [
        f"case{index}.nii.gz" for index in (0, 2, 3)
    ]


def test_the_file_with_values_that_are_not_finite_is_named(run, images):
    broken = np.full(GRID.shape_voxels, np.nan, np.float32)
    write_image(images / "case1_0000.nii.gz", broken, grid=GRID)
    with pytest.raises(CasesFailedError, match=r"case1: .*images/case1_0000\.nii\.gz: intensities must be finite"):
        predict(run, images)


def test_a_2d_image_is_refused_by_a_model_of_volumes_as_in_python(run, images):
    (images / "case1_0000.nii.gz").unlink()
    nib.save(nib.Nifti1Image(np.eye(12, dtype=np.float32), np.eye(4)), images / "case1_0000.nii.gz")
    words = r"case1: .*case1_0000\.nii\.gz: 3d_fullres was trained on volumes, found a 2D image of \(12, 12\) \(y, x\)"
    with pytest.raises(CasesFailedError, match=words):
        predict(run, images)
    assert not (run.parent / "out" / "case1.nii.gz").exists()


@pytest.mark.parametrize("named", [".", "case1_0000.nii.gz"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_folder_of_the_images_takes_no_label_maps(run, images, named, overwrite):
    before = sorted(images.iterdir())
    request = PredictionRequest(options=OPTIONS, device="cpu", overwrite=overwrite)
    with pytest.raises(PredictionError, match="is the folder of the images; choose another folder"):
        predict_images(run, images / named, images / ".." / "images", request=request, progress=SilentProgress())
    assert sorted(images.iterdir()) == before


def list_label_maps(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}


def test_overwriting_one_image_leaves_the_others_of_the_same_model(run, images):
    out, _ = predict(run, images, save_probabilities=True)
    before = list_label_maps(out)
    _, outcome = predict(run, images / "case1_0000.nii.gz", overwrite=True)
    assert (outcome.written, outcome.kept) == (1, 0)
    after = list_label_maps(out)
    assert {name for name in before if after[name] != before[name]} == {"case1.nii.gz"}
    assert len(list(out.glob("*.b2nd"))) == 4
    assert predict(run, images)[1].kept == 4


def test_overwriting_another_model_removes_all_that_it_made_and_nothing_else(run, images):
    out, _ = predict(run, images, precision="bfloat16", save_probabilities=True)
    write_image(out / "mine.nii.gz", np.zeros(GRID.shape_voxels, np.float32), grid=GRID)
    predict(run, images / "case1_0000.nii.gz", precision="float32", overwrite=True)
    assert set(list_label_maps(out)) == {"case1.nii.gz", "mine.nii.gz"}
    assert not list(out.glob("*.b2nd"))
    assert set(read_document(out / "prediction.json", PredictionRecord).outputs) == {"case1.nii.gz"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("stopped_at", ["prediction.json", "plan.json"])
def test_what_is_stopped_while_it_prepares_goes_on_when_it_is_repeated(
    run, images, monkeypatch, *, stopped_at, overwrite
):
    if overwrite:
        predict(run, images, precision="bfloat16")

    def stop(path, document):
        if path.name == stopped_at:
            raise KeyboardInterrupt
        write_document(path, document)

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "write_document", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(run, images, precision="float32", overwrite=overwrite)
    _, outcome = predict(run, images, precision="float32", overwrite=overwrite)
    assert outcome.written == 4


def test_a_label_map_is_not_taken_for_that_of_another_image_of_the_same_name(run, images, tmp_path):
    write_image(images / "case1_0000.mha", np.zeros(GRID.shape_voxels, np.float32), grid=GRID)
    predict(run, images / "case1_0000.nii.gz")
    with pytest.raises(RunError, match=r"was made of case1_0000\.nii\.gz, not of case1_0000\.mha"):
        predict(run, images / "case1_0000.mha")
    assert predict(run, images / "case1_0000.mha", overwrite=True)[1].written == 1


def test_an_image_that_was_replaced_is_predicted_once_more(run, images):
    out, _ = predict(run, images, save_probabilities=True)
    before = list_label_maps(out)
    write_image(images / "case1_0000.nii.gz", np.zeros(GRID.shape_voxels, np.float32), grid=GRID)
    os.utime(images / "case2_0000.nii.gz")  # copied again, as it was
    notes = Notes()
    request = PredictionRequest(options=OPTIONS, device="cpu", save_probabilities=True)
    outcome = predict_images(run, images, out, request=request, progress=notes)
    assert (outcome.written, outcome.kept) == (1, 3)
    assert "predicted once more, as their images were changed since: case1" in notes.text
    after = list_label_maps(out)
    assert {name for name in before if after[name] != before[name]} == {"case1.nii.gz"}
    loaded = load_model(run, device="cpu")
    volume = read_image([images / "case1_0000.nii.gz"])
    expected = loaded.predict_volume(volume.array, volume.grid, options=OPTIONS)
    np.testing.assert_array_equal(read_label_map(out / "case1.nii.gz").array, expected)
    assert predict_images(run, images, out, request=request, progress=notes).kept == 4


def test_a_corrected_label_map_of_a_replaced_image_is_not_lost(run, images):
    out, _ = predict(run, images)
    write_image(images / "case1_0000.nii.gz", np.zeros(GRID.shape_voxels, np.float32), grid=GRID)
    (out / "case1.nii.gz").write_bytes(b"corrected by hand")
    with pytest.raises(RunError, match=r"case1\.nii\.gz, or their images are others than before; .* move them away"):
        predict(run, images)
    assert (out / "case1.nii.gz").read_bytes() == b"corrected by hand"
    (out / "case1.nii.gz").rename(run.parent / "corrected.nii.gz")
    assert predict(run, images)[1].written == 1


def test_images_of_a_record_without_their_versions_are_taken_for_unchanged(run, images):
    out, _ = predict(run, images)
    record = read_document(out / "prediction.json", PredictionRecord)
    assert record.image_versions.keys() == {f"case{index}.nii.gz" for index in range(4)}
    write_document(out / "prediction.json", record.model_copy(update={"image_versions": {}}))
    write_image(images / "case1_0000.nii.gz", np.zeros(GRID.shape_voxels, np.float32), grid=GRID)
    assert predict(run, images)[1].kept == 4


def test_the_folder_of_images_of_several_files_is_listed_once_for_all_of_them(tmp_path, monkeypatch):
    for index in range(3):
        write_image(tmp_path / f"case{index}.mhd", np.zeros(GRID.shape_voxels, np.float32), grid=GRID)
    cases = tuple(Case.from_paths(f"case{n}", images=[tmp_path / f"case{n}.mhd"], label=None) for n in range(3))
    found = ImageFiles(cases=cases, problems=(), ending=".mhd", source="", channel_count=1)
    listings = count_listings(monkeypatch)
    assert [len(found.list_files(case)) for case in cases * 2] == [2] * 6
    assert listings == {tmp_path: 1}


def test_a_file_that_no_prediction_made_is_not_taken_for_one(run, images):
    out, _ = predict(run, images / "case1_0000.nii.gz")
    write_image(out / "case2.nii.gz", np.zeros(GRID.shape_voxels, np.float32), grid=GRID)
    with pytest.raises(RunError, match=r"such as case2\.nii\.gz \(1 in all\)"):
        predict(run, images)


def test_a_folder_that_may_not_be_read_is_named(run, images, monkeypatch):
    def refuse(folder):
        raise PermissionError

    monkeypatch.setattr(type(images), "iterdir", refuse)
    with pytest.raises(RunError, match="may not be read"):
        predict(run, images)


def test_probabilities_are_stored_in_half_precision_on_the_grid_of_the_image(run, images):
    out, _ = predict(run, images, save_probabilities=True)
    probabilities = blosc2.open(str(out / "case2.b2nd"), mode="r")[:]
    assert probabilities.dtype == np.float16
    assert probabilities.shape == (3, *GRID.shape_voxels)
    label_map = read_label_map(out / "case2.nii.gz").array
    assert (np.array([0, 5, 9])[probabilities.argmax(axis=0)] == label_map).mean() > 0.99


def test_the_precision_is_recorded_and_another_one_needs_permission(run, images):
    out, _ = predict(run, images, precision="bfloat16")
    assert read_document(out / "prediction.json", PredictionRecord).number_type == "bfloat16"
    with pytest.raises(RunError, match="number_type: bfloat16 there, float32 now"):
        predict(run, images, precision="float32")


def test_the_model_is_told_how_many_images_wait_and_what_runs_it_is_recorded(run, images):
    told = []

    def load(*arguments, **choices):
        told.append((choices["execution"], choices["workload"]))
        return load_ensemble(*arguments, **choices)

    out, _ = predict(run, images, load=load)
    assert told == [("auto", Workload(images=4, options=OPTIONS))]
    assert read_document(out / "prediction.json", PredictionRecord).execution == ("eager",)


@pytest.mark.slow
@pytest.mark.parametrize("execution", [
    pytest.param("compiled", marks=pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")),
    pytest.param("openvino", marks=pytest.mark.skipif(
        find_openvino_version() is None, reason="OpenVINO is not installed (pip install autoseg[openvino])"
    )),
])  # fmt: skip
def test_whatever_runs_the_network_the_labels_are_the_same(run, images, execution):
    # As a program of its own, because annotations that are checked, as in these tests, cannot be compiled.
    expected, _ = predict(run, images, precision="float32")
    out = run.parent / execution
    choices = ["--no-mirroring", "--precision", "float32", "--device", "cpu", "--execution", execution]
    command = [sys.executable, "-m", "autoseg", "predict", str(run), str(images), str(out), *choices]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert f"float32 on cpu, {execution}" in done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    assert read_document(out / "prediction.json", PredictionRecord).execution == (execution,)
    for path in expected.glob("*.nii.gz"):
        label_map = read_label_map(path).array
        assert len(np.unique(label_map)) > 1
        assert (read_label_map(out / path.name).array == label_map).mean() > 0.999


def test_a_spacing_in_another_unit_is_refused_by_name_while_others_are_written(run, images):
    for name, factor in (("case1", 1000.0), ("case2", 0.001)):
        path = images / f"{name}_0000.nii.gz"
        grid = Grid(shape_voxels=GRID.shape_voxels, spacing_mm=tuple(factor * length for length in GRID.spacing_mm))
        write_image(path, read_image([path]).array[0], grid=grid)
    with pytest.raises(CasesFailedError) as caught:
        predict(run, images)
    large, small = caught.value.problems
    assert f"{images}/case1_0000.nii.gz: the image of 9 x 10 x 11 voxels at 1000 x 1500 x 1000 mm" in large.text
    assert "times as many as in training (up to 2048)" in large.text
    assert f"{images}/case2_0000.nii.gz: the image of" in small.text
    assert "leaves nothing of it" in small.text
    assert sorted(path.name for path in (run.parent / "out").glob("*.nii.gz")) == ["case0.nii.gz", "case3.nii.gz"]


def test_images_that_show_nothing_are_named_and_segmented(run, images):
    for name, value in (("case1", 0), ("case2", 1000.1)):
        write_image(images / f"{name}_0000.nii.gz", np.full(GRID.shape_voxels, value, np.float32), grid=GRID)
    progress = Notes()
    request = PredictionRequest(options=OPTIONS, device="cpu")
    assert predict_images(run, images, run.parent / "out", request=request, progress=progress).written == 4
    assert [note for note in progress.lines if note.startswith("warning")] == [
        "warning: 2 cases (case1, case2): all voxels of channel 0 (CT) have the same value (0 or 1000.1): it shows "
        "nothing, and is normalized to zeros"
    ]
