"""A run that was begun by the release with plans and checkpoints of schema version 1 is read, resumed and used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.command_line import run_autoseg
from PIL import Image
from safetensors.torch import load_file

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document
from autoseg.errors import TrainingError
from autoseg.plan import Plan
from autoseg.run_folder import FoldFolder
from autoseg.training.checkpoint import digest_plan, identify_training, read_description
from autoseg.training.data.training_data import TrainingData
from autoseg.training.options import Length
from autoseg.training.start import find_start

KEPT = Path(__file__).with_name("version_1")
ON_CPU = ("--device", "cpu", "--precision", "float32")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return shutil.copytree(KEPT / "run", tmp_path / "run")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content["configurations"]["2d"])
    path.write_text(json.dumps(content))


def train(run, fold, *more):
    return run_autoseg("train", run, "--configuration", "2d", "--fold", fold, "--workers", 0, *ON_CPU, *more)


def test_its_plan_says_in_the_new_form_what_it_said_in_the_old():
    training = read_document(KEPT / "run" / "plan.json", Plan).configurations["2d"].training
    assert [term.model_dump() for term in training.losses] == [
        {"name": "dice", "weight": 1.0, "batch_dice": True},
        {"name": "cross_entropy", "weight": 0.5},
    ]
    assert training.objective.name == "segmentation"
    assert (training.foreground_placement, training.warmup_iterations, training.weight_average_decay) == (
        "centred",
        0,
        0.5,
    )


@pytest.mark.slow
def test_its_interrupted_training_ends_where_the_old_version_would_have_ended(run):
    assert read_description(FoldFolder(run / "models/2d/fold_0").latest_checkpoint).reached == (1, 3)
    done = train(run, 0, "--deterministic")
    assert done.code == 0, done.err
    assert "continues, in epoch 2 of 3, after iteration 3 of 4" in done.out
    found = load_file(run / "models/2d/fold_0/checkpoint_final.safetensors")
    del found["checksums"]  # which version 1 had not
    expected = load_file(KEPT / "expected" / "fold_0.safetensors")
    assert found.keys() == expected.keys()
    # Sums have another order in other versions of PyTorch and on other CPUs.
    computed_with = json.loads((KEPT / "expected" / "computed_with.json").read_text())
    here = {"torch": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    tolerance = 0.0 if here == computed_with else 1e-4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_its_finished_model_is_not_trained_again_and_predicts_what_it_predicted(run, tmp_path):
    done = train(run, 1)
    assert done.code == 0, done.err
    assert "already trained" in done.out
    done = run_autoseg("predict", run, KEPT / "images", tmp_path / "out", "--fold", 1, *ON_CPU)
    assert done.code == 0, done.err
    found, expected = (np.asarray(Image.open(folder / "spot5.png")) for folder in (tmp_path / "out", KEPT / "expected"))
    assert expected.any()
    assert np.array_equal(found, expected)


def start(run):
    """Where fold 0 would be continued by the plan of the run."""
    plan, splits = read_document(run / "plan.json", Plan), read_document(run / "splits.json", Splits)
    data = TrainingData(
        labels=plan.labels, channels=plan.channels, folder=run / "preprocessed/2d", fold=select_fold(splits, "0")
    )
    identity = identify_training(plan.configurations["2d"], data, seed=7)
    assert identity.plan_digest == digest_plan(plan.configurations["2d"], plan.labels, plan.channels)
    return find_start(FoldFolder(run / "models/2d/fold_0"), identity, Length())


def test_its_checkpoint_is_continued_by_the_plan_that_the_fold_followed(run):
    found = start(run)
    assert (found.epochs_done, found.iterations_done) == (1, 3)


def test_what_decides_nothing_may_have_changed_since(run):
    edit(run / "plan.json", lambda part: part["training"].update(sufficient_iterations=5))
    assert start(run).epochs_done == 1


@pytest.mark.parametrize("change", [{"momentum": 0.5}, {"batch_dice": False}, {"dice_weight": 2.0}])
def test_its_checkpoint_is_not_continued_by_another_plan(run, change):
    edit(run / "plan.json", lambda part: part["training"].update(change))
    with pytest.raises(TrainingError, match=r"the plan changed.*--restart"):
        start(run)
