"""Runs that look as if they had been trained and validated: every document and file, without any training."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.dataset import read_dataset, record_dataset
from autoseg.dataset.folds import Fold, Splits
from autoseg.document import write_document
from autoseg.evaluation.crossvalidation import Statistic
from autoseg.evaluation.summary import MetricValues
from autoseg.plan import Plan
from autoseg.plan.decisions import Reason
from autoseg.run_folder import RunFolder, write_text
from autoseg.runtime.provenance import TrainingRecord, read_versions
from autoseg.training.monitoring.history import write_training_log
from autoseg.workflows.select.selection_document import CandidateScores, Member
from builders.balls import AFFINE, SHAPE, make_case, save
from builders.datasets import write_dataset
from builders.evaluations import build_summary, build_values
from builders.fingerprints import build_case, build_fingerprint
from builders.folds import build_epoch_record
from builders.labels import build_labels
from builders.plans import build_channels, build_configuration, build_plan
from builders.selections import build_selection

CONFIGURATION = "3d_fullres"
CASES = ("case0", "case1", "case2", "case3", "case4", "case5")
SPACING_MM = (2.5, 1.25, 1.25)


def build_planned_run(
    root: Path, *, cases: Sequence[str] = CASES, classes: Sequence[str] = ("bright", "dark"), image_digest: str = ""
) -> RunFolder:
    """A run and its dataset of balls beside it, as `autoseg plan` leaves them."""
    made = {name: make_case(index) for index, name in enumerate(cases)}
    values = dict(zip(classes, (2, 5), strict=True))
    data = write_dataset(root / "Dataset001_Balls", made.items(), labels=values, affine=AFFINE, numTraining=len(cases))
    run = RunFolder(root / "balls.autoseg")
    labels = build_labels({name: (value,) for name, value in values.items()})
    write_document(run.dataset, record_dataset(read_dataset(data)))
    measured = [
        build_case(SPACING_MM, SHAPE[::-1], name=name, image_digest=image_digest, voxel_counts=count_voxels(label_map))
        for name, (_, label_map) in made.items()
    ]
    fingerprint = build_fingerprint(SPACING_MM, SHAPE[::-1], labels=labels, cases=measured, channel_names=("MR",))
    write_document(run.fingerprint, fingerprint)
    write_document(run.plan, build_balls_plan(data.name, classes))
    halves = tuple(cases[: len(cases) // 2]), tuple(cases[len(cases) // 2 :])
    folds = [Fold(training=training, validation=held_out) for training, held_out in (halves[::-1], halves)]
    write_document(run.splits, Splits(folds=tuple(folds)))
    shutil.copytree(data / "labelsTr", run.references)
    return run


def count_voxels(label_map: np.ndarray) -> tuple[int, int]:
    """Voxels of both balls."""
    return int((label_map == 2).sum()), int((label_map == 5).sum())


def build_balls_plan(name: str, classes: Sequence[str]) -> Plan:
    """A plan of one configuration for the balls, with reasons."""
    reasons = (
        Reason(subject="orientation", value="LPS", because="all 6 cases have it"),
        Reason(subject=f"{CONFIGURATION}: patch size", value="8 x 8 x 8", because="memory suffices for <8> voxels"),
    )
    labels = build_labels(dict(zip(classes, ((2,), (5,)), strict=True)))
    configuration = build_configuration((8, 8, 8))
    channels = build_channels("zscore", name="MR")
    return build_plan(
        {CONFIGURATION: configuration}, dataset_name=name, labels=labels, reasons=reasons, channels=channels
    )


def begin_fold(run: RunFolder, fold: int, *, epochs: int = 3) -> None:
    """Writes what a training leaves while it is under way."""
    folder = run.fold(CONFIGURATION, str(fold))
    write_training_log(folder.training_log, [build_epoch_record(epoch) for epoch in range(epochs)])
    record = TrainingRecord(
        configuration=CONFIGURATION,
        fold=str(fold),
        seed=7,
        device="cpu",
        number_type="float32",
        plan_sha256="",
        versions=read_versions(),
    )
    write_document(folder.training_record, record)


def finish_scored_fold(run: RunFolder, fold: int, dice: Mapping[str, float]) -> None:
    """Writes checkpoint, predictions and scores of a fold; the prediction of case n is its reference moved by n."""
    begin_fold(run, fold)
    folder = run.fold(CONFIGURATION, str(fold))
    write_text(folder.final_checkpoint, "weights")
    write_text(folder.plan, run.plan.read_text())
    names = dict(zip(("2", "5"), read_class_names(run), strict=True))
    summary = build_summary({case: {"2": score, "5": score} for case, score in dice.items()}, class_names=names)
    entries = tuple(
        entry.model_copy(update={"prediction_file": f"elsewhere/{entry.case}.nii.gz", "reference_file": entry.case})
        for entry in summary.metric_per_case
    )
    mean: dict[str, MetricValues] = {key: build_values(float(np.mean(list(dice.values())))) for key in names}
    told = {"metric_per_case": entries, "mean": mean, "foreground_mean": mean["2"]}
    write_document(folder.summary, summary.model_copy(update=told))
    for index, case in enumerate(dice):
        moved = np.roll(make_case(index)[1], index, axis=0)
        save(folder.validation / f"{case}.nii.gz", moved)


def read_class_names(run: RunFolder) -> tuple[str, ...]:
    """The names of both classes."""
    return Plan.model_validate_json(run.plan.read_text()).labels.class_names


def build_scored_run(root: Path, *, cases: Sequence[str] = CASES, **changes: Sequence[str]) -> RunFolder:
    """A run of which both folds are validated; the Dice of the cases rises from 0.5 in steps of 0.05."""
    run = build_planned_run(root, cases=cases, **changes)
    scores = {case: 0.5 + 0.05 * index for index, case in enumerate(cases)}
    half = len(cases) // 2
    finish_scored_fold(run, 0, {case: scores[case] for case in cases[:half]})
    finish_scored_fold(run, 1, {case: scores[case] for case in cases[half:]})
    return run


def select(run: RunFolder) -> None:
    """Writes a selection of both folds."""
    dice = Statistic(mean=0.625, std=0.1, lower=0.55, upper=0.7, count=6)
    member = Member(configuration=CONFIGURATION, folds=("0", "1"), weights_sha256=("a", "b"))
    selection = build_selection((member,), ())
    scores = CandidateScores(configurations=(CONFIGURATION,), foreground=dice, classes={})
    told = {"because": "it has the highest mean Dice, 0.625", "candidates": (scores,)}
    write_document(run.selection, selection.model_copy(update=told))
