"""Whole runs through the command line, on data made here: what a user does."""

import json
import shutil
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pytest
from builders.balls import AFFINE, make_case, save
from builders.command_line import run_autoseg
from builders.plans import shorten

import autoseg


def read(path: Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    picture = nib.load(path)
    return np.asarray(picture.dataobj), picture


def compute_dice(prediction: np.ndarray, reference: np.ndarray, value: int) -> float:
    a, b = prediction == value, reference == value
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_planning_prints_every_decision_with_its_reason(dataset: Path, tmp_path: Path) -> None:
    done = run_autoseg("plan", dataset, "--no-preprocess", cwd=tmp_path)
    assert done.code == 0, done.err
    run = tmp_path / "Dataset001_Balls.autoseg"
    reasons = json.loads((run / "plan.json").read_text())["reasons"]
    assert len(reasons) > 15
    for reason in reasons:
        assert f"{reason['subject']}: {reason['value']}" in done.out
        assert reason["because"] in done.out
    assert not (run / "preprocessed").exists()


def test_training_leaves_what_is_promised(trained_run: Path) -> None:
    fold = trained_run / "models" / "3d_fullres" / "fold_0"
    assert (fold / "checkpoint_final.safetensors").is_file()
    assert not (fold / "checkpoint_latest.safetensors").exists()
    assert (fold / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert list((fold / "tensorboard").glob("events.out.tfevents.*"))
    log = [json.loads(line) for line in (fold / "training_log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [0, 1, 2]
    assert log[-1]["train_loss"] < log[0]["train_loss"]
    record = json.loads((fold / "training.json").read_text())
    assert record["seed"] == 0
    assert record["calls"] == [["--precision", "auto"]]
    assert record["versions"]["autoseg"] == autoseg.__version__
    assert (fold / "plan.json").read_text()


def test_validation_covers_exactly_the_held_out_cases(trained_run: Path) -> None:
    fold = json.loads((trained_run / "splits.json").read_text())["folds"][0]
    folder = trained_run / "models" / "3d_fullres" / "fold_0" / "validation"
    summary = json.loads((folder / "summary.json").read_text())
    assert [entry["case"] for entry in summary["metric_per_case"]] == fold["validation"]
    for name in fold["validation"]:
        label_map, picture = read(folder / f"{name}.nii.gz")
        assert set(np.unique(label_map)) <= {0, 2, 5}
        np.testing.assert_array_equal(picture.affine, AFFINE)


def test_training_again_does_nothing(trained_run: Path) -> None:
    fold = trained_run / "models" / "3d_fullres" / "fold_0"
    before = (fold / "checkpoint_final.safetensors").stat().st_mtime_ns
    done = run_autoseg("train", trained_run, "--configuration", "3d_fullres", "--fold", "0", "--device", "cpu")
    assert done.code == 0, done.err
    assert (fold / "checkpoint_final.safetensors").stat().st_mtime_ns == before


def test_predictions_lie_on_the_grid_of_their_image_and_are_right(trained_run: Path, tmp_path: Path) -> None:
    image, reference = make_case(100)
    save(tmp_path / "images" / "new_0000.nii.gz", image)
    done = run_autoseg("predict", trained_run, tmp_path / "images", tmp_path / "out", "--save-probabilities")
    assert done.code == 0, done.err
    label_map, picture = read(tmp_path / "out" / "new.nii.gz")
    np.testing.assert_array_equal(picture.affine, AFFINE)
    assert label_map.dtype == np.uint8
    for value in (2, 5):
        assert compute_dice(label_map, reference, value) > 0.7
    probabilities = blosc2.open(str(tmp_path / "out" / "new.b2nd"), mode="r")[:].astype(np.float32)
    assert probabilities.shape == (3, *image.T.shape)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1.0, atol=3e-3)
    chosen = np.array([0, 2, 5])[probabilities.argmax(axis=0)]
    assert (chosen == label_map.T).mean() > 0.999


@pytest.mark.parametrize("code", ["RAS", "LPS", "ASL", "IPR"])
def test_an_image_in_another_orientation_gets_the_same_anatomy(trained_run: Path, tmp_path: Path, code: str) -> None:
    image, _ = make_case(101)
    original = nib.Nifti1Image(image, AFFINE)
    nib.save(original, tmp_path / "plain.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(code))
    nib.save(original.as_reoriented(turn), tmp_path / "turned.nii.gz")
    for name in ("plain", "turned"):
        done = run_autoseg("predict", trained_run, tmp_path / f"{name}.nii.gz", tmp_path / "out", "--no-mirroring")
        assert done.code == 0, done.err
    plain = nib.load(tmp_path / "out" / "plain.nii.gz")
    turned = nib.load(tmp_path / "out" / "turned.nii.gz")
    assert "".join(nib.aff2axcodes(turned.affine)) == code
    np.testing.assert_array_equal(np.asarray(plain.as_reoriented(turn).dataobj), np.asarray(turned.dataobj))


def test_predicting_again_keeps_what_is_finished(trained_run: Path, tmp_path: Path) -> None:
    for index in (0, 1):
        save(tmp_path / "images" / f"new{index}_0000.nii.gz", make_case(110 + index)[0])
    arguments = ("predict", trained_run, tmp_path / "images", tmp_path / "out")
    assert run_autoseg(*arguments).code == 0
    kept = (tmp_path / "out" / "new0.nii.gz").stat().st_mtime_ns
    (tmp_path / "out" / "new1.nii.gz").unlink()
    done = run_autoseg(*arguments)
    assert done.code == 0, done.err
    assert "1 label map written" in done.out
    assert (tmp_path / "out" / "new0.nii.gz").stat().st_mtime_ns == kept
    other = run_autoseg(*arguments, "--no-mirroring")
    assert other.code == 1
    assert "--overwrite" in other.err


def test_evaluation_writes_a_table_of_cases_and_classes(trained_run: Path, dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset / "labelsTr", tmp_path / "predictions")
    done = run_autoseg("evaluate", tmp_path / "predictions", dataset / "labelsTr", "--run", trained_run)
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "predictions" / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == 1.0
    assert summary["foreground_mean"]["HD95"] == 0.0
    assert summary["foreground_mean"]["NSD"] == 1.0
    assert "case5" in done.out
    assert "bright" in done.out
    assert (tmp_path / "predictions" / "summary.csv").read_text().count("case") >= 12


def test_a_run_can_be_moved(trained_run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "moved.autoseg"
    shutil.copytree(trained_run, moved)
    shutil.rmtree(moved / "models" / "3d_fullres" / "fold_0" / "validation")
    done = run_autoseg("train", moved, "--configuration", "3d_fullres", "--fold", "0", "--device", "cpu")
    assert done.code == 0, done.err
    assert (moved / "models" / "3d_fullres" / "fold_0" / "validation" / "summary.json").is_file()


def test_an_interrupted_plan_continues_with_the_missing_cases(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("plan", dataset, "--run", run, "--configuration", "3d_fullres", "--workers", 1)
    assert run_autoseg(*arguments).code == 0
    folder = run / "preprocessed" / "3d_fullres"
    kept = (folder / "case1.json").stat().st_mtime_ns
    (folder / "case0.json").unlink()
    done = run_autoseg(*arguments)
    assert done.code == 0, done.err
    assert done.out.count("1 cases preprocessed") == 1
    assert (folder / "case1.json").stat().st_mtime_ns == kept
    assert (folder / "case0.json").is_file()


def test_an_edited_plan_must_be_preprocessed_before_training(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    plan = json.loads((run / "plan.json").read_text())
    plan["configurations"]["3d_fullres"]["spacing_mm"] = [2.5, 2.5, 2.5]
    (run / "plan.json").write_text(json.dumps(plan))
    options = ("--configuration", "3d_fullres", "--device", "cpu", "--workers", 0)
    refused = run_autoseg("train", run, *options, "--fold", "1")
    assert refused.code == 1
    assert "autoseg preprocess" in refused.err
    done = run_autoseg("preprocess", run, "--configuration", "3d_fullres", "--workers", 1)
    assert done.code == 0, done.err
    assert "preprocessed 6 cases" in done.out
    assert run_autoseg("train", run, *options, "--fold", "1", "--epochs", 1).code == 0
    old = run_autoseg("train", run, *options, "--fold", "0")
    assert old.code == 1
    assert "another plan" in old.err
    again = run_autoseg("preprocess", run, "--configuration", "3d_fullres", "--workers", 1)
    assert "preprocessed 0 cases" in again.out


def test_a_two_dimensional_configuration_trains_and_predicts(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    shorten(run, "2d", epochs=1, iterations=2)
    done = run_autoseg("train", run, "--configuration", "2d", "--fold", "1", "--device", "cpu", "--workers", 0)
    assert done.code == 0, done.err
    save(tmp_path / "new.nii.gz", make_case(120)[0])
    done = run_autoseg("predict", run, tmp_path / "new.nii.gz", tmp_path / "out", "--configuration", "2d")
    assert done.code == 0, done.err
    assert read(tmp_path / "out" / "new.nii.gz")[0].shape == make_case(120)[0].shape


def test_the_python_interface_says_the_same_as_the_command(trained_run: Path, tmp_path: Path) -> None:
    image, _ = make_case(130)
    save(tmp_path / "new.nii.gz", image)
    assert run_autoseg("predict", trained_run, tmp_path / "new.nii.gz", tmp_path / "out").code == 0
    model = autoseg.load_model(trained_run, device="cpu")
    array = np.ascontiguousarray(image.T)
    label_map = autoseg.predict_volume(model, array, spacing_mm=(2.5, 1.25, 1.25), orientation="LPS")
    np.testing.assert_array_equal(label_map, read(tmp_path / "out" / "new.nii.gz")[0].T)
