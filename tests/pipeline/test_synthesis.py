"""Synthetic cases from the run to the training: with regions, an ignore label and two channels."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders.balls import AFFINE, make_case, save
from builders.datasets import write_dataset
from builders.progress import Notes, skip_drawing

import autoseg
from autoseg.cli.choices import find_planner
from autoseg.errors import RunError, TrainingError
from autoseg.preprocessing.cache import list_cases, open_case
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_image, read_label_map
from autoseg.workflows.folds.synthesis import SynthesisFolder
from autoseg.workflows.synthesize import denoiser_plan, denoiser_training
from autoseg.workflows.synthesize.request import SynthesisRequest
from autoseg.workflows.synthesize.synthesizing import synthesize_cases
from autoseg.workflows.train import fold_options
from autoseg.workflows.train.request import TrainingRequest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "train.md"
LABELS = {"background": 0, "both": [2, 5], "dark": 5, "ignore": 7}
REQUEST = SynthesisRequest(configuration="2d", folds=("0",), cases=2, workers=0, device="cpu")
TRAINING = TrainingRequest(configuration="2d", folds=("0",), synthetic=True, workers=0, device="cpu")
SMALL = {"epochs": 1, "iterations_per_epoch": 2, "validation_iterations_per_epoch": 1, "batch_size": 2}

_no_drawing = pytest.fixture(autouse=True)(skip_drawing)


def make_ignoring_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    image, label_map = make_case(seed)
    label_map[:4, :4] = 7
    return image, label_map


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("synthesis")
    cases = [(f"case{index}", make_ignoring_case(index)) for index in range(3)]
    dataset = write_dataset(
        folder / "Dataset001_Balls",
        cases,
        labels=LABELS,
        affine=AFFINE,
        numTraining=3,
        regions_class_order=[2, 5],
        channel_names={"0": "T1", "1": "T2"},
    )
    for name, (image, _) in cases:
        save(dataset / "imagesTr" / f"{name}_0001.nii.gz", -image)
    run = folder / "abdomen.autoseg"
    autoseg.plan_dataset(dataset, run, planner=find_planner("default", None), configurations=["2d"], workers=1)
    plan = json.loads((run / "plan.json").read_text())
    plan["configurations"]["2d"]["training"] |= SMALL
    features = plan["configurations"]["2d"]["network"]["features_per_stage"]
    plan["configurations"]["2d"]["network"]["features_per_stage"] = [4] * len(features)
    (run / "plan.json").write_text(json.dumps(plan))
    return RunFolder(run)


def read_arrays(folder: SynthesisFolder) -> list[np.ndarray]:
    cases = [open_case(folder.cases, name) for name in list_cases(folder.cases)]
    return [array[:] for case in cases for array in (case.image, case.label_map)]


def run_the_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs what the page about training says of synthetic cases; small and without processes."""
    for name, value in {"ITERATIONS": 4, "ITERATIONS_PER_EPOCH": 2, "SAMPLER_STEPS": 2}.items():
        monkeypatch.setattr(denoiser_plan, name, value)
    monkeypatch.setattr(denoiser_plan, "FIRST_FEATURES", {2: 8, 3: 8})
    for module in (denoiser_training, fold_options):
        monkeypatch.setattr(module, "compute_loader_count", lambda device: 0)
    monkeypatch.chdir(place)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, str(PAGE), "exec"), {})


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")
def test_synthetic_cases_train_their_fold_and_are_nowhere_else(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="has no synthetic cases"):
        autoseg.train_run(run.root, TRAINING)
    planned = [path.read_bytes() for path in (run.plan, run.fingerprint, run.splits)]
    real, out = list_cases(run.preprocessed("2d")), run.root.parent / "synthetic_images"
    run_the_page(run.root.parent, monkeypatch)

    folder = SynthesisFolder(run.synthetic("2d", "0"))
    made = read_arrays(folder)
    assert made[0].shape[0] == 2
    assert 3 in np.unique(np.stack(made[1::2]))  # the ignore label
    image = read_image([out / f"synthetic_0001_of_2d_fold_0_000{channel}.nii.gz" for channel in (0, 1)])
    np.testing.assert_array_equal(image.array, made[0])
    found = read_label_map(out / "synthetic_0001_of_2d_fold_0.nii.gz").array
    assert set(np.unique(found)) <= {0, 2, 5, 7}

    record = json.loads(folder.record.read_text())
    folder.record.write_text(json.dumps(record | {"cases": record["cases"][:1]}))
    notes = Notes()
    assert synthesize_cases(run.root, REQUEST, progress=notes) == 2  # continues
    assert "already trained" in notes.text
    assert all(np.array_equal(first, again) for first, again in zip(made, read_arrays(folder), strict=True))

    fold = run.fold("2d", "0")
    assert json.loads(fold.training_record.read_text())["synthetic_cases"] == 2
    (held_out,) = json.loads(run.splits.read_text())["folds"][0]["validation"]
    assert len(json.loads(fold.summary.read_text())["metric_per_case"]) == 1
    assert [path.name for path in fold.validation.glob("*.nii.gz")] == [f"{held_out}.nii.gz"]
    assert [path.read_bytes() for path in (run.plan, run.fingerprint, run.splits)] == planned
    assert list_cases(run.preprocessed("2d")) == real
    autoseg.train_run(run.root, replace(TRAINING, synthetic=False))  # keeps what it was begun with

    folder.record.write_text(json.dumps(record | {"cases": record["cases"][:1]}))
    with pytest.raises(TrainingError, match=r"the synthetic cases \(--synthetic\) changed"):
        autoseg.train_run(run.root, TRAINING)
