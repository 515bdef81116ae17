"""Diffusion of label maps from the plan to predictions, with regions, and in a file of the model."""

import json
from pathlib import Path

import numpy as np
import pytest
from builders.balls import AFFINE, make_case
from builders.datasets import write_dataset

import autoseg
from autoseg.cli.choices import find_planner
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.train.request import TrainingRequest

REGIONS = {"background": 0, "both": [2, 5], "dark": 5}


def shorten(run: Path) -> None:
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    chosen = plan["configurations"]["2d"]
    chosen["training"] |= {
        "epochs": 1,
        "iterations_per_epoch": 2,
        "validation_iterations_per_epoch": 1,
        "batch_size": 2,
    }
    chosen["network"]["sampler_steps"] = 2
    denoiser = chosen["network"]["denoiser"]
    denoiser |= {"features_per_stage": [8] * len(denoiser["strides"]), "blocks_per_stage": 1}
    path.write_text(json.dumps(plan))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusion")
    cases = ((f"case{index}", make_case(index)) for index in range(3))
    dataset = write_dataset(
        folder / "Dataset001_Balls", cases, labels=REGIONS, affine=AFFINE, numTraining=3, regions_class_order=[2, 5]
    )
    run = folder / "balls.autoseg"
    planner = find_planner("default", "diffusion_unet")
    autoseg.plan_dataset(dataset, run, planner=planner, configurations=["2d"], workers=1)
    shorten(run)
    autoseg.train_run(run, TrainingRequest(configuration="2d", folds=("0",), workers=0, device="cpu"))
    autoseg.select_models(run, SelectionRequest(variants=False, device="cpu"))
    return run


def test_a_file_of_the_model_predicts_what_the_run_predicts_every_time(run: Path, tmp_path: Path) -> None:
    image, _ = make_case(9)
    array = np.ascontiguousarray(image.T)
    file, other = tmp_path / "balls.zip", tmp_path / "other.autoseg"
    autoseg.export_model(run, file, ExportRequest(format="autoseg"))
    autoseg.import_model(file, other)
    first, again, imported = (
        autoseg.predict_volume(each, array, (2.5, 1.25, 1.25), orientation="LPS", device="cpu")
        for each in (run, run, other)
    )
    assert set(np.unique(first)) <= {0, 2, 5}
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(imported, first)
