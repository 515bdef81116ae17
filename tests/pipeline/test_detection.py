"""Detect, then segment, from the plan to predictions: the detector is trained first, in every fold."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.balls import AFFINE, make_wide_case, save
from builders.datasets import write_dataset
from builders.progress import Notes, skip_drawing

import autoseg
from autoseg.cli.choices import find_planner
from autoseg.document import read_document
from autoseg.errors import ExchangeError, SelectionError
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder
from autoseg.stages.training_cases import open_training_case, read_box
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.train.request import TrainingRequest

DETECT, DETECTOR = "detect_then_segment", "3d_detector"


def shorten(run: Path) -> None:
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    for name, iterations in ((DETECTOR, 14), (DETECT, 1)):
        chosen = plan["configurations"][name]
        stages = len(chosen["network"]["strides"])
        chosen["network"] |= {"features_per_stage": [8] * stages, "blocks_per_stage": [1] * stages}
        chosen["training"] |= {
            "epochs": 3,
            "iterations_per_epoch": iterations,
            "validation_iterations_per_epoch": 1,
            "batch_size": 2,
            "transforms": [part for part in chosen["training"]["transforms"] if part["name"] == "noise"],
        }
    plan["configurations"][DETECTOR]["network"]["neck_blocks"] = 1
    path.write_text(json.dumps(plan))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detection")
    cases = ((f"case{index}", make_wide_case(index)) for index in range(2))
    dataset = write_dataset(folder / "Dataset001_Balls", cases, labels={"bright": 2}, affine=AFFINE, numTraining=2)
    run = folder / "balls.autoseg"
    planner = find_planner("default", configurations=[DETECT])
    autoseg.plan_dataset(dataset, run, planner=planner, memory_gb=0.1, configurations=[DETECTOR, DETECT], workers=1)
    shorten(run)
    request = TrainingRequest(configuration=DETECT, folds=("0",), workers=0, device="cpu", precision="float32")
    with pytest.MonkeyPatch.context() as patches:
        skip_drawing(patches)
        autoseg.train_run(run, request)
    return run


def test_boxes_of_the_folds_that_held_the_cases_out_hold_the_objects(run: Path) -> None:
    folder, plan = RunFolder(run), read_document(run / "plan.json", Plan)
    assert all(folder.fold(DETECTOR, fold).final_checkpoint.is_file() for fold in ("0", "1"))
    summary = read_document(folder.fold(DETECT, "0").summary, EvaluationSummary)
    assert summary.validation is not None
    assert summary.validation.box_recall == 1
    for name in ("case0", "case1"):
        case = open_training_case(folder, plan, DETECT, name)
        box = read_box(case, plan, DETECT)
        assert box is not None
        voxels = np.prod([end - first for first, end in box])
        assert voxels < 0.7 * np.prod(case.label_map.shape)


def test_the_model_file_predicts_as_the_run_and_an_image_without_objects_is_announced_by_name(
    run: Path, tmp_path: Path
) -> None:
    image, label_map = make_wide_case(50)
    save(tmp_path / "images" / "ball_0000.nii.gz", image)
    save(tmp_path / "images" / "none_0000.nii.gz", np.random.default_rng(0).normal(100, 8, image.shape).astype("f4"))
    autoseg.export_model(run, tmp_path / "model.zip", ExportRequest(format="autoseg", configuration=DETECT))
    found = []
    for model, out in ((run, tmp_path / "own"), (tmp_path / "model.zip", tmp_path / "shared")):
        notes = Notes()
        autoseg.predict_images(model, tmp_path / "images", out, progress=notes)
        (note,) = (line for line in notes.lines if "there is no box" in line)
        assert f"{DETECT}: {DETECTOR} predicts no foreground" in note
        assert "none" in note
        assert "ball" not in note
        found.append(np.asarray(nib.load(out / "ball.nii.gz").dataobj))
    assert found[0].shape == label_map.shape
    assert np.array_equal(*found)
    assert (tmp_path / "own" / "boxes.csv").read_text() == (tmp_path / "shared" / "boxes.csv").read_text()
    rows = list(csv.DictReader((tmp_path / "own" / "boxes.csv").read_text().splitlines()))
    ball, (none,) = ([row for row in rows if row["case"] == name] for name in ("ball", "none"))
    *objects, used = ball
    assert [(row["configuration"], row["class_name"]) for row in (none, used)] == [(DETECT, "")] * 2
    assert {(row["configuration"], row["class_name"]) for row in objects} == {(DETECTOR, "bright")}
    scores = [float(row["score"]) for row in objects]
    assert scores == sorted(scores, reverse=True)
    inside = np.nonzero(label_map == 2)  # axes x, y, z, as written
    for axis, places in zip("xyz", inside, strict=True):
        assert any(int(row[f"first_{axis}"]) <= np.median(places) <= int(row[f"last_{axis}"]) for row in objects)
        assert min(int(row[f"first_{axis}"]) for row in objects) >= int(used[f"first_{axis}"])
        assert int(none[f"last_{axis}"]) == image.shape["xyz".index(axis)] - 1


def test_the_detector_is_not_selected_and_nnunet_has_none(run: Path, tmp_path: Path) -> None:
    selection = autoseg.select_models(run, SelectionRequest(variants=False))
    assert [candidate.configurations for candidate in selection.candidates] == [(DETECT,)]
    with pytest.raises(SelectionError, match=f"{DETECTOR} finds boxes and segments nothing"):
        autoseg.select_models(run, SelectionRequest(configurations=(DETECTOR,)))
    with pytest.raises(ExchangeError, match="nnU-Net"):
        autoseg.export_model(run, tmp_path / "out", ExportRequest(configuration=DETECTOR))
