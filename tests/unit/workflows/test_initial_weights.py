"""Which checkpoint the training of a fold begins with."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders.folds import SPLITS, finish_fold

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document, write_document
from autoseg.errors import TrainingError
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.workflows.train.initial_weights import find_initial_weights
from autoseg.workflows.train.job import FoldJob
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.units import is_up_to_date, list_arguments, list_units


@pytest.fixture
def source(run: RunFolder, tmp_path: Path) -> RunFolder:
    """A run of the same dataset and folds of which fold 0 is trained."""
    source = RunFolder(tmp_path / "source")
    shutil.copytree(run.root, source.root)
    finish_fold(source, "2d", "0")
    return source


@pytest.fixture
def job(run: RunFolder) -> FoldJob:
    plan = read_document(run.plan, Plan)
    return FoldJob(
        run=run,
        plan=plan,
        configuration="2d",
        fold="0",
        cases=select_fold(read_document(run.splits, Splits), "0"),
        device=torch.device("cpu"),
    )


def test_a_run_stands_for_its_model_of_the_same_configuration_and_fold(source: RunFolder, job: FoldJob) -> None:
    expected = source.fold("2d", "0").final_checkpoint
    assert find_initial_weights(source.root, job) == expected
    assert find_initial_weights(expected, job) == expected
    with pytest.raises(TrainingError, match=r"fold_1.*found none; train 2d, fold 1 of .*source first"):
        find_initial_weights(source.root, replace(job, fold="1"))


def test_a_model_that_was_trained_on_held_out_cases_is_refused(source: RunFolder, job: FoldJob) -> None:
    checkpoint = source.fold("2d", "0").final_checkpoint
    other = replace(job, fold="1", cases=SPLITS.folds[1])
    with pytest.raises(TrainingError, match=r"was trained on c, d, which 2d, fold 1 holds out.*--splits"):
        find_initial_weights(checkpoint, other)
    assert find_initial_weights(checkpoint, replace(other, fold="all")) == checkpoint


def test_equal_names_in_another_dataset_are_other_cases(source: RunFolder, job: FoldJob) -> None:
    folder = source.fold("2d", "0")
    write_document(folder.plan, job.plan.model_copy(update={"dataset_name": "Another"}))
    other = replace(job, fold="1", cases=SPLITS.folds[1])
    assert find_initial_weights(folder.final_checkpoint, other) == folder.final_checkpoint


def test_a_checkpoint_without_its_run_is_taken_as_it_is(source: RunFolder, job: FoldJob, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    shutil.copy(source.fold("2d", "0").final_checkpoint, copy)
    assert find_initial_weights(copy, job) == copy


def test_a_training_does_not_begin_with_its_own_model(job: FoldJob) -> None:
    finish_fold(job.run, "2d", "0")
    with pytest.raises(TrainingError, match=r"is the model of 2d, fold 0 itself.*--extend"):
        find_initial_weights(job.run.root, job)


def test_folds_of_a_queue_begin_with_it_too(job: FoldJob, monkeypatch: pytest.MonkeyPatch) -> None:
    request = TrainingRequest(initial_weights=Path("other.autoseg"), configuration="2d")
    arguments = list_arguments(request)
    assert arguments[arguments.index("--init") + 1] == "other.autoseg"
    finish_fold(job.run, "2d", "0")
    monkeypatch.setattr("autoseg.workflows.train.units.check_preprocessed", lambda *_: None)
    unit = list_units(job.run.root, replace(request, folds=("0",)), progress=SilentProgress())[0]
    assert is_up_to_date(job.run, unit, TrainingRequest())
    assert not is_up_to_date(job.run, unit, request)
