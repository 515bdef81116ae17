"""Which checkpoint the training of a fold begins with."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders.folds import SPLITS, finish_fold
from builders.labels import build_labels
from builders.plans import build_channels, build_configuration, build_plan

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document, write_document
from autoseg.errors import TrainingError
from autoseg.labels import LabelScheme
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.workflows.train.initial_weights import find_initial_weights, list_differences
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
    (told,) = list_differences(copy, job.plan)
    assert "has no plan.json beside it" in told


SMALL_AND_BIG = build_labels({"small": (2,), "big": (5,)})
BIG_AND_SMALL = build_labels({"big": (2,), "small": (5,)})
REGIONS = build_labels({"big": (2, 5), "small": (5,), "all": (2, 5)}, region_write_values=(2, 5, 2))


def describe(labels: LabelScheme, *channels: str) -> Plan:
    """A plan of a single configuration."""
    counts = {"input_channels": len(channels), "output_channels": labels.output_channel_count}
    named = tuple(build_channels("zscore", name=name)[0] for name in channels)
    return build_plan({"2d": build_configuration((8, 8), network=counts, data_of="2d")}, labels=labels, channels=named)


@pytest.mark.parametrize(
    ("trained", "planned", "words"),
    [
        (describe(BIG_AND_SMALL, "T1", "T2"), describe(BIG_AND_SMALL, "T1", "T2"), []),
        (
            describe(BIG_AND_SMALL, "T1", "FLAIR"),
            describe(BIG_AND_SMALL, "T1", "T2"),
            ["channels T1, FLAIR, this plan has T1, T2: each begins with the weights of the one in its place"],
        ),
        (
            describe(build_labels({"big": (2,), "x": (5,)}), "CT"),
            describe(BIG_AND_SMALL, "CT"),
            ["classes big, x, this plan has big, small"],
        ),
        (
            describe(REGIONS, "CT"),
            describe(BIG_AND_SMALL, "CT"),
            ["classes big (region), small (region), all (region), this plan has big, small"],
        ),
    ],
    ids=["equal", "channels", "classes", "regions"],
)
def test_other_channels_and_classes_are_announced_by_name(
    tmp_path: Path, *, trained: Plan, planned: Plan, words: list[str]
) -> None:
    write_document(tmp_path / "plan.json", trained)
    found = list(list_differences(tmp_path / "checkpoint_final.safetensors", planned))
    assert len(found) == len(words)
    assert all(text in told for text, told in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("trained", "planned", "words"),
    [
        (
            describe(BIG_AND_SMALL, "T2", "T1"),
            describe(BIG_AND_SMALL, "T1", "T2"),
            "channels T2, T1, expected the order T1, T2 of this plan",
        ),
        (
            describe(SMALL_AND_BIG, "CT"),
            describe(BIG_AND_SMALL, "CT"),
            "classes small, big, expected the order big, small of this plan",
        ),
    ],
    ids=["channels", "classes"],
)
def test_weights_of_the_same_channels_or_classes_in_another_order_are_refused(
    tmp_path: Path, *, trained: Plan, planned: Plan, words: str
) -> None:
    write_document(tmp_path / "plan.json", trained)
    with pytest.raises(TrainingError, match=words):
        list(list_differences(tmp_path / "checkpoint_final.safetensors", planned))


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
