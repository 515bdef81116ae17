"""Mask R-CNN from the plan to objects: training, prediction, scores and the model file."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from builders.fingerprints import build_fingerprint
from builders.objects import CELLS, write_cells
from builders.progress import skip_drawing

import autoseg
from autoseg.cli.choices import find_planner
from autoseg.dataset import read_dataset
from autoseg.document import read_document
from autoseg.errors import ExchangeError, PlanError
from autoseg.fingerprint import Machine
from autoseg.plan import Plan
from autoseg.plan.network import MaskRcnnPlan
from autoseg.processes.progress import SilentProgress
from autoseg.volume_io import read_label_map
from autoseg.workflows.evaluate.objects import evaluate_objects
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.plan.planning import find_network_cost
from autoseg.workflows.predict.prediction import PredictionRequest
from autoseg.workflows.train.request import TrainingRequest

CPU = PredictionRequest(device="cpu", execution="eager", precision="float32")
ITERATIONS = 8
SMALL = {
    "levels": 2,
    "pyramid_features": 8,
    "hidden_features": 16,
    "box_bins": 5,
    "mask_bins": 5,
    "mask_layers": 1,
    "proposals": 16,
    "objects": 8,
    "training_regions": 16,
    "positive_regions": 8,
    "least_score": 0.001,
}


def shorten(run: Path) -> None:
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    chosen = plan["configurations"]["2d"]
    network = chosen["network"]
    network |= SMALL
    for field in ("kernel_sizes", "strides"):
        network[field] = network[field][:3]
    network |= {"features_per_stage": [8, 8, 16], "blocks_per_stage": [0, 0, 1]}
    network["encoder"]["block"] = "basic"
    chosen["training"] |= {
        "epochs": 2,
        "iterations_per_epoch": ITERATIONS // 2,
        "validation_iterations_per_epoch": 1,
        "batch_size": 2,
        "initial_learning_rate": 5e-3,
        "transforms": [part for part in chosen["training"]["transforms"] if part["name"] == "mirror"],
    }
    path.write_text(json.dumps(plan))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("data") / "Dataset001_Cells", cases=4)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planned, and a fold of two cases trained briefly: any score makes an object."""
    run = tmp_path_factory.mktemp("runs") / "cells.autoseg"
    planner = find_planner("default", "mask_rcnn")
    autoseg.plan_dataset(dataset, run, planner=planner, memory_gb=1.0, border_fraction=0.25, workers=1)
    names = [case.name for case in read_dataset(dataset).cases]
    halves = (names[:2], names[2:])
    folds = [{"training": own, "validation": other} for own, other in (halves, halves[::-1])]
    (run / "splits.json").write_text(json.dumps({"schema_version": 1, "folds": folds}))
    shorten(run)
    with pytest.MonkeyPatch.context() as patches:
        skip_drawing(patches)
        autoseg.train_run(run, TrainingRequest(folds=("0",), device="cpu", workers=0, precision="float32"))
    return run


@pytest.fixture(scope="module")
def predicted(dataset: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted") / "out"
    assert autoseg.predict_images(run, dataset / "imagesTr", out, CPU).written == 4
    return out


def test_the_plan_says_why_its_network_is_as_it_is(run: Path) -> None:
    plan = read_document(run / "plan.json", Plan)
    assert isinstance(plan.configurations["2d"].network, MaskRcnnPlan)
    reasons = {reason.subject: reason for reason in plan.reasons}
    assert reasons["2d: objective"].value == "mask_rcnn"
    assert "half of the resolution" in reasons["2d: levels"].because
    assert "room for" in reasons["2d: objects"].because


def test_objects_are_in_numbered_maps_tables_and_scores(dataset: Path, run: Path, predicted: Path) -> None:
    rows = list(csv.DictReader((predicted / "objects.csv").read_text().splitlines()))
    for case in read_dataset(dataset).cases:
        numbers = read_label_map(predicted / "instances" / f"{case.name}.nii.gz")
        assert numbers.grid == read_label_map(case.label_path).grid
        own = [row for row in rows if row["case"] == case.name]
        assert [int(row["voxels"]) for row in own] == np.bincount(numbers.array.ravel())[1:].tolist()
        assert all(0 < float(row["mean_probability"]) <= 1 for row in own)
    found = evaluate_objects(
        predicted, dataset / "labelsTr", dataset / "instancesTr", run_root=run, progress=SilentProgress()
    )
    pooled = found.classes["instances"]["cell"].pooled
    assert pooled.expected == 12
    assert pooled.predicted == len(rows) > 0


def test_the_model_file_predicts_as_the_run_and_nnunet_has_none(
    dataset: Path, run: Path, predicted: Path, tmp_path: Path
) -> None:
    autoseg.export_model(run, tmp_path / "cells.zip", ExportRequest(format="autoseg"))
    autoseg.predict_images(tmp_path / "cells.zip", dataset / "imagesTr", tmp_path / "out", CPU)
    assert (tmp_path / "out" / "objects.csv").read_text() == (predicted / "objects.csv").read_text()
    with pytest.raises(ExchangeError, match="nnU-Net has no counterpart of the task instances"):
        autoseg.export_model(run, tmp_path / "models")


@pytest.mark.parametrize("labels", [1, 2], ids=["one", "two"])
def test_classes_alone_are_refused(labels: int) -> None:
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (1, 64, 64), declared_labels=1 + labels)
    with pytest.raises(PlanError, match=r"mask_rcnn finds separate objects: .* plan with --task instances"):
        find_planner("default", "mask_rcnn").plan(
            fingerprint, Machine(accelerator_memory_gb=None), measure_cost=find_network_cost
        )


def test_its_boundaries_are_not_corrected() -> None:
    fingerprint = build_fingerprint(
        (1.0, 1.0, 1.0), (1, 64, 64), labels=CELLS.target_labels, targets=CELLS, has_instances=True
    )
    planner = find_planner("default", "mask_rcnn", configurations=["boundary_refinement"])
    with pytest.raises(PlanError, match="that of 2d is trained by the objective 'mask_rcnn'"):
        planner.plan(fingerprint, Machine(accelerator_memory_gb=None), measure_cost=find_network_cost)


def test_a_plan_without_instances_is_refused(run: Path) -> None:
    content = json.loads((run / "plan.json").read_text())
    with pytest.raises(ValueError, match="family mask_rcnn, which finds objects, where these are not told apart"):
        Plan.model_validate(content | {"instances": None})
