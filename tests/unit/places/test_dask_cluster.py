"""Workers of Dask in processes of their own do what this process does, also where some of them die."""

import os
from pathlib import Path

import numpy as np
import psutil
import pytest
from builders.balls import write_balls
from builders.dask_workers import AFTER, BEFORE, DyingCluster, end_process
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan

from autoseg.document import read_document
from autoseg.fingerprint import Machine
from autoseg.geometry import Grid
from autoseg.inference.options import PredictionOptions
from autoseg.places import open_place
from autoseg.places.dask import DaskCluster
from autoseg.places.local import ThisComputer
from autoseg.places.place import Place
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import write_image
from autoseg.workflows.evaluate.evaluation import evaluate_folder
from autoseg.workflows.plan.planning import PlanRequest, plan_dataset
from autoseg.workflows.predict.image_tasks import predict_images_in_tasks
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.predict.prediction_folder import RECORD_NAME, PredictionRecord
from planners import PLANNERS

pytest.importorskip("distributed", reason="needs autoseg[dask]")


def plan(dataset: Path, root: Path, place: Place) -> RunFolder:
    request = PlanRequest(
        planner="default",
        machine=Machine(accelerator_memory_gb=8),
        configurations=("3d_fullres",),
        workers=2,
        place=place,
    )
    plan_dataset(
        dataset,
        root,
        PLANNERS["default"].plan,
        request=request,
        report=lambda _: None,
        progress=SilentProgress(),
    )
    return RunFolder(root)


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def predict_and_evaluate(run: Path, place: Place | None) -> dict[str, bytes]:
    """Predicts three images and compares them with those that were predicted here."""
    out = run.with_name("here" if place is None else "there")
    request = PredictionRequest(options=PredictionOptions(mirroring=False), device="cpu", save_probabilities=True)
    if place is None:
        predict_images(run, run.with_name("images"), out, request=request, progress=SilentProgress())
    else:
        predict_images_in_tasks(
            run, run.with_name("images"), out, request=request, place=place, progress=SilentProgress()
        )
    evaluate_folder(out, run.with_name("here"), run_root=run, progress=SilentProgress(), place=place)
    return {
        name: content
        for name, content in read_files(out).items()
        if name.endswith((".nii.gz", ".b2nd", ".csv", "quality.json"))
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a trained network, beside three images."""
    configuration = build_configuration((8, 8, 8))
    write_trained_fold(tmp_path / "run", build_plan({"3d_fullres": configuration}), "3d_fullres", fold="0")
    random, grid = np.random.default_rng(0), Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.5, 1.0))
    for index in range(3):
        image = random.normal(size=grid.shape_voxels).astype(np.float32)
        write_image(tmp_path / "images" / f"case{index}_0000.nii.gz", image, grid=grid)
    return tmp_path / "run"


def test_killed_workers_change_no_array(tmp_path: Path) -> None:
    dataset, deaths = write_balls(tmp_path / "Dataset001_Balls", cases=5), tmp_path / "deaths"
    deaths.mkdir()
    here = plan(dataset, tmp_path / "here" / "run", ThisComputer())
    before, environment = psutil.Process().children(recursive=True), dict(os.environ)
    with open_place("dask", tmp_path / "there" / "run") as place:
        assert isinstance(place, DaskCluster)
        there = plan(dataset, tmp_path / "there" / "run", DyingCluster(cluster=place, deaths=deaths))
    assert {path.name for path in deaths.iterdir()} == {BEFORE, AFTER}
    assert read_files(there.root) == read_files(here.root)
    assert psutil.Process().children(recursive=True) == before
    assert dict(os.environ) == environment


def test_workers_predict_evaluate_and_survive_a_case_that_ends_their_process(run: Path) -> None:
    here = predict_and_evaluate(run, None)
    with open_place("dask", run) as place:
        assert predict_and_evaluate(run, place) == here
        outcome = place.run_over_cases(
            end_process, [("a", 0), ("b", 1), ("c", 2)], workers=2, label="Ending", progress=SilentProgress()
        )
    records = [read_document(run.with_name(name) / RECORD_NAME, PredictionRecord) for name in ("here", "there")]
    assert records[0] == records[1]
    assert outcome.results == (0, 2)
    (failure,) = outcome.failures
    assert failure.case == "b"
    assert "every worker that worked on this case died; the usual cause is too little memory" in failure.describe()[0]
