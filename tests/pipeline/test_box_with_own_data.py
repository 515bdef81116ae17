"""A stage in a box that has data and spacing of its own, as whole images at full resolution would take too long."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.balls import AFFINE, make_wide_case, save
from builders.datasets import write_dataset
from builders.progress import skip_drawing

import autoseg
from autoseg.cli.choices import find_planner
from autoseg.document import read_document
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.run_folder import RunFolder
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.predict.prediction import PredictionRequest
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.train.request import TrainingRequest

ROI, COARSE, FULL = "3d_roi", "3d_coarse", "3d_fullres"
FINER = 1.25


def give_own_data(run: Path) -> None:
    """Leaves full resolution out of the plan, and makes the stage in the box somewhat coarser than that; both short."""
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    plan["configurations"] = {name: part for name, part in plan["configurations"].items() if name != FULL}
    roi = plan["configurations"][ROI]
    roi |= {
        "data_of": ROI,
        "spacing_mm": [FINER * spacing for spacing in roi["spacing_mm"]],
        "median_shape_voxels": [round(extent / FINER) for extent in roi["median_shape_voxels"]],
    }
    for name, iterations in ((COARSE, 14), (ROI, 2)):
        chosen = plan["configurations"][name]
        stages = len(chosen["network"]["strides"])
        chosen["network"]["features_per_stage"] = [8] * stages
        chosen["training"] |= {
            "epochs": 3,
            "iterations_per_epoch": iterations,
            "validation_iterations_per_epoch": 1,
            "batch_size": 2,
            "transforms": [part for part in chosen["training"]["transforms"] if part["name"] == "noise"],
        }
    path.write_text(json.dumps(plan))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own_data")
    cases = ((f"case{index}", make_wide_case(index)) for index in range(2))
    dataset = write_dataset(folder / "Dataset001_Balls", cases, labels={"bright": 2}, affine=AFFINE, numTraining=2)
    run = folder / "balls.autoseg"
    planner = find_planner("default", configurations=[ROI])
    autoseg.plan_dataset(dataset, run, planner=planner, memory_gb=0.1, configurations=[COARSE], workers=1)
    give_own_data(run)
    autoseg.plan_dataset(dataset, run, planner=planner, memory_gb=0.1, configurations=[ROI], workers=1)
    with pytest.MonkeyPatch.context() as patches:
        skip_drawing(patches)
        for name in (COARSE, ROI):
            autoseg.train_run(run, TrainingRequest(configuration=name, workers=0, device="cpu", precision="float32"))
    return run


def test_it_is_trained_validated_selected_shared_and_predicts_on_the_grid_of_the_image(run: Path, tmp_path: Path):
    folder = RunFolder(run)
    assert {path.name for path in (run / "preprocessed").iterdir() if path.is_dir()} == {COARSE, ROI}
    summary = read_document(folder.fold(ROI, "0").summary, EvaluationSummary)
    assert summary.validation is not None
    assert summary.validation.box_recall == 1
    assert summary.validation.box_share < 1
    autoseg.select_models(run, SelectionRequest(variants=False))
    selection = json.loads((run / "selection.json").read_text())
    verdicts = {tuple(found["configurations"]): found.get("stage") for found in selection["candidates"]}
    assert verdicts[(ROI,)]["follows"] == [COARSE]
    image, label_map = make_wide_case(50)
    save(tmp_path / "images" / "ball_0000.nii.gz", image)
    autoseg.export_model(run, tmp_path / "model.zip", ExportRequest(format="autoseg", configuration=ROI))
    found = []
    for model, out in ((run, tmp_path / "own"), (tmp_path / "model.zip", tmp_path / "shared")):
        autoseg.predict_images(model, tmp_path / "images", out, PredictionRequest(configuration=ROI))
        found.append(np.asarray(nib.load(out / "ball.nii.gz").dataobj))
    assert found[0].shape == label_map.shape
    assert found[0].any()
    assert np.array_equal(*found)
