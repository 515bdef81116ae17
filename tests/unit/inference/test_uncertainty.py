"""Maps of uncertainty beside label maps, which stay as they are."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from builders.folds import write_trained_fold
from builders.full_device import FullDeviceEnsemble
from builders.labels import build_labels
from builders.plans import build_configuration, build_plan
from builders.progress import Notes

from autoseg.document import read_document
from autoseg.errors import PredictionError, RunError
from autoseg.geometry import Grid
from autoseg.inference.ensemble import MemberChoice, load_ensemble
from autoseg.inference.model import load_model
from autoseg.inference.options import PredictionOptions
from autoseg.inference.sliding_window.mirroring import list_mirrored_axes
from autoseg.inference.view_disagreement import compute_uncertainty, record_normalizers
from autoseg.volume_io import read_image, read_label_map, write_image, write_label_map
from autoseg.workflows.predict import prediction
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.predict.prediction_folder import LOCK_NAME, PredictionRecord
from autoseg.workflows.predict.uncertainty_maps import build_uncertainty_recorder

GRID = Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.5, 1.0))
FLAT = Grid(shape_voxels=(8, 8, 8), spacing_mm=(1.0, 1.0, 1.0))
REGIONS = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))


def write_case(folder, grid=GRID, name="case"):
    image = np.random.default_rng(0).normal(size=grid.shape_voxels).astype(np.float32)
    write_image(folder / f"{name}_0000.nii.gz", image, grid=grid)


@pytest.fixture
def images(tmp_path):
    write_case(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def make_run(tmp_path):
    def make(labels=None, folds=("0", "1"), dimensions=3):
        patch, called = ((8, 8, 8), "3d_fullres") if dimensions == 3 else ((8, 8), "2d")
        network = {"output_channels": 2} if labels is not None else {}
        changes = {} if labels is None else {"labels": labels}
        plan = build_plan(
            {called: build_configuration(patch, data_of=called, network=network, mirror_axes=tuple(range(dimensions)))},
            **changes,
        )
        for fold in folds:
            write_trained_fold(tmp_path / "run", plan, called, fold=fold, seed=int(fold))
        return tmp_path / "run"

    return make


def predict(run, images, out="out", progress=None, **choices):
    chosen = {"precision": "float32", "execution": "eager", "options": PredictionOptions()} | choices
    predict_images(
        run, images, run.parent / out, request=PredictionRequest(device="cpu", **chosen), progress=progress or Notes()
    )
    return run.parent / out


@pytest.mark.parametrize(("labels", "dimensions"), [(None, 3), (None, 2), (REGIONS, 3)], ids=["3d", "2d", "regions"])
def test_two_maps_of_8_bits_are_written_and_label_maps_stay_as_they_are(make_run, images, *, labels, dimensions):
    run = make_run(labels, dimensions=dimensions)
    plain, out = predict(run, images, "plain"), predict(run, images, uncertainty=True)
    assert (out / "case.nii.gz").read_bytes() == (plain / "case.nii.gz").read_bytes()
    paths = sorted((out / "uncertainty").iterdir())
    assert [path.name for path in paths] == ["case_disagreement.nii.gz", "case_entropy.nii.gz"]
    for path in paths:
        assert nibabel.load(path).get_data_dtype() == np.uint8
        found = read_label_map(path)
        assert found.grid == read_label_map(out / "case.nii.gz").grid
        assert found.array.max() > 0


@pytest.mark.parametrize("labels", [None, REGIONS], ids=["labels", "regions"])
def test_entropy_and_disagreement_are_those_of_all_folds_and_views(make_run, tmp_path, labels):
    run = make_run(labels)
    write_case(tmp_path / "flat", FLAT)  # a single window
    model = load_model(run, device="cpu", precision="float32", execution="eager")
    volume = read_image([tmp_path / "flat" / "case_0000.nii.gz"])
    case = model.preprocess(volume.array, volume.grid)
    recorded = record_normalizers(model).predict_case(case)
    torch.testing.assert_close(recorded[:-1], model.predict_case(case), rtol=0, atol=0)
    image = torch.from_numpy(case.image)[None]
    with torch.inference_mode():
        views = torch.stack(
            [
                network(image.flip([2 + axis for axis in axes]))[0].flip([2 + axis for axis in axes])[0]
                for network in model.networks
                for axes in list_mirrored_axes(model.configuration_plan.training.mirror_axes)
            ]
        )
    assert len(views) == 16
    if labels is None:
        p, q = torch.softmax(views, 1), torch.softmax(views.mean(0), 0)
        entropy = -(q * q.log()).sum(0) / np.log(len(q))
        affinity = p.log().mean(0).exp().sum(0)
    else:
        p, q = torch.sigmoid(views), torch.sigmoid(views.mean(0))
        entropy = -(q * q.log2() + (1 - q) * (1 - q).log2()).mean(0)
        affinity = (p.log().mean(0).exp() + (1 - p).log().mean(0).exp()).prod(0)
    found = compute_uncertainty(recorded, model.plan.labels).float()
    torch.testing.assert_close(found[0], entropy, rtol=0, atol=2e-3)
    torch.testing.assert_close(found[1], 1 - affinity, rtol=0, atol=2e-3)


def test_maps_are_computed_in_ram_where_a_device_is_full(make_run, images, caplog):
    model = load_ensemble(make_run(), (MemberChoice(configuration=None, folds=None),), device="cpu", execution="eager")
    volume = read_image([images / "case_0000.nii.gz"])
    cases = model.preprocess(volume.array, volume.grid)
    usual = build_uncertainty_recorder(model, images, mirroring=True, announce=pytest.fail)
    full = replace(usual, models=FullDeviceEnsemble(members=usual.models.members))
    (_, expected), (_, found) = (
        recorder.predict_case("case", cases, options=PredictionOptions(), on_window=lambda *_: None)
        for recorder in (usual, full)
    )
    assert "ran out of memory; computing maps of uncertainty on the CPU" in caplog.text
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values)


@pytest.mark.parametrize(("dimensions", "grid"), [(3, FLAT), (2, FLAT)], ids=["one window", "one window a slice"])
def test_a_single_prediction_gets_no_map_of_disagreement_and_that_is_said(make_run, tmp_path, *, dimensions, grid):
    run, notes = make_run(folds=("0",), dimensions=dimensions), Notes()
    write_case(tmp_path / "flat", grid)
    plain = {"uncertainty": True, "options": PredictionOptions(mirroring=False), "progress": notes}
    out = predict(run, tmp_path / "flat", **plain)
    maps, label_map = out / "uncertainty", out / "case.nii.gz"
    assert [path.name for path in maps.iterdir()] == ["case_entropy.nii.gz"]
    assert read_label_map(maps / "case_entropy.nii.gz").array.max() > 0
    assert "warning: one fold predicts without mirrored views" in notes.text
    assert "no map of disagreement, as there is a single prediction" in notes.text
    assert read_document(out / "prediction.json", PredictionRecord).disagreement_of == ("overlapping windows",)
    before = label_map.stat().st_mtime_ns
    predict(run, tmp_path / "flat", **plain)
    assert label_map.stat().st_mtime_ns == before  # it is finished
    (maps / "case_entropy.nii.gz").unlink()
    (maps / "case_disagreement.nii.gz").write_bytes(b"0 everywhere, by an earlier version")
    predict(run, tmp_path / "flat", **plain)
    assert [path.name for path in maps.iterdir()] == ["case_entropy.nii.gz"]


def test_overlapping_windows_of_one_fold_are_compared_and_more_is_not_warned_of(make_run, images):
    run, notes = make_run(folds=("0",)), Notes()
    out = predict(run, images, uncertainty=True, options=PredictionOptions(mirroring=False), progress=notes)
    assert read_label_map(out / "uncertainty" / "case_disagreement.nii.gz").array.max() > 0
    assert "warning: one fold predicts without mirrored views" in notes.text
    assert "no map of disagreement" not in notes.text
    views = Notes()
    out = predict(run, images, "views", uncertainty=True, progress=views)
    assert "disagreement" not in views.text
    found = read_document(out / "prediction.json", PredictionRecord).disagreement_of
    assert found == ("mirrored views", "overlapping windows")


def test_a_repeated_call_writes_what_is_missing_and_a_plain_one_is_refused(make_run, images):
    run = make_run()
    out = predict(run, images, uncertainty=True)
    path = out / "uncertainty" / "case_entropy.nii.gz"
    content = path.read_bytes()
    path.unlink()
    predict(run, images, uncertainty=True)
    assert path.read_bytes() == content
    with pytest.raises(PredictionError, match=r"uncertainty holds the maps of uncertainty of an earlier prediction"):
        predict(run, images)
    predict(run, images, uncertainty=True, overwrite=True)
    assert path.exists()


@pytest.mark.parametrize(
    "added", [{"uncertainty": True}, {"save_probabilities": True}], ids=lambda added: next(iter(added))
)
def test_a_label_map_that_was_corrected_is_not_replaced_for_what_is_added(make_run, images, added):
    run = make_run()
    out = predict(run, images)
    path = out / "case.nii.gz"
    predicted = read_label_map(path)
    predict(run, images, **added)  # a label map that is as it was predicted may be made again
    for extra in (*out.glob("*.b2nd"), *out.glob("uncertainty/*")):
        extra.unlink()
    write_label_map(path, np.ones_like(predicted.array), grid=predicted.grid, like=None)
    corrected = path.read_bytes()
    with pytest.raises(RunError, match=r"made together with case\.nii\.gz, or their images"):
        predict(run, images, **added)
    assert path.read_bytes() == corrected


def test_old_maps_are_removed_before_another_prediction_may_write_new_ones(make_run, images, monkeypatch):
    run, held = make_run(), []
    out = predict(run, images, uncertainty=True)
    monkeypatch.setattr(prediction, "remove_old_maps", lambda *_, **__: held.append((out / LOCK_NAME).exists()))
    predict(run, images, uncertainty=True, overwrite=True)
    assert held == [True, True]


def test_overwriting_removes_the_maps_of_what_is_predicted_anew_and_no_others(make_run, images):
    run, folder = make_run(), images.with_name("more")
    for name in ("case", "case_2", "other"):
        write_case(folder, FLAT, name)
    out = predict(run, folder, uncertainty=True)
    maps = out / "uncertainty"
    (maps / "mine_entropy.nii.gz").write_bytes(b"mine")
    before = {path.name: path.stat().st_mtime_ns for path in maps.iterdir()}
    predict(run, images, uncertainty=True, overwrite=True)
    after = {path.name: path.stat().st_mtime_ns for path in maps.iterdir()}
    anew = {"case_entropy.nii.gz", "case_disagreement.nii.gz"}
    assert {name for name in before if after[name] != before[name]} == anew
    predict(run, images, uncertainty=True, overwrite=True, options=PredictionOptions(mirroring=False))
    assert {path.name for path in out.glob("*.nii.gz")} == {"case.nii.gz"}
    assert {path.name for path in maps.iterdir()} == anew | {"mine_entropy.nii.gz"}  # none without its label map


def test_attention_and_uncertainty_are_not_recorded_at_once(make_run, images):
    with pytest.raises(PredictionError, match="cannot be recorded at once; leave out --attention-maps"):
        predict(make_run(), images, uncertainty=True, attention_maps=True)
