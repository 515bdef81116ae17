"""Trains folds of a configuration and validates each on whole volumes."""

import hashlib
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from autoseg.document import Document, read_document, write_document
from autoseg.errors import TrainingError
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.host_memory import keep_freed_memory
from autoseg.networks.device import find_device
from autoseg.plan import Plan
from autoseg.progress import Progress
from autoseg.run_folder import FoldFolder, RunFolder, open_run
from autoseg.training.folds import ALL_CASES, Fold, Splits, select_fold
from autoseg.training.history import EpochRecord
from autoseg.training.loop import EpochDone, IterationDone, TrainingOptions, check_trainable, train
from autoseg.workflows.case_pool import count_usable_cores
from autoseg.workflows.preprocessing import check_preprocessed
from autoseg.workflows.validation import validate_fold
from autoseg.workflows.versions import LibraryVersions, measure_versions

PREFERRED_CONFIGURATIONS: Final = ("3d_fullres", "2d")
# Patches for a GPU need many processes; on a CPU the network itself needs the cores, and one process keeps up.
MOST_WORKERS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What the user asked for.

    Attributes:
        configuration: None takes 3d_fullres where it is planned, else 2d.
        folds: None takes every fold, one after the other.
        epochs: None takes the plan's.
        restart: Discard earlier trainings of these folds.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    epochs: int | None = None
    device: str = "auto"
    seed: int = 0
    restart: bool = False


class TrainingRecord(Document):
    """How a model was made; everything else is in the plan beside it."""

    schema_version: Literal[1] = 1
    configuration: str
    fold: str
    epochs: int
    seed: int
    device: str
    plan_sha256: str
    versions: LibraryVersions


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedFold:
    """A finished training; no summary for the fold "all", which holds nothing out."""

    fold: str
    folder: FoldFolder
    summary: EvaluationSummary | None


def train_run(run_root: Path, request: TrainingRequest, *, progress: Progress) -> Iterator[TrainedFold]:
    """Trains and validates the requested folds; yields each when it is finished, and continues what was interrupted.

    Raises:
        RunError: There is no run, or its preprocessed data is incomplete.
        TrainingError: The configuration or fold does not exist or cannot be trained, or training failed.
        DeviceError: The device does not exist or is too small.
    """
    run = open_run(run_root)
    plan = read_document(run.plan, Plan)
    name = find_configuration_name(plan, request.configuration)
    configuration = plan.configurations[name]
    check_trainable(configuration)
    splits = read_document(run.splits, Splits)
    folds = request.folds or tuple(str(index) for index in range(len(splits.folds)))
    chosen = {fold: select_fold(splits, fold) for fold in folds}
    device = find_device(request.device)
    if device.type == "cpu":
        keep_freed_memory()
    for cases in chosen.values():
        check_preprocessed(run, plan, configuration.data_of, sorted({*cases.training, *cases.validation}))
    for fold, cases in chosen.items():
        folder = run.fold(name, fold)
        if request.restart:
            shutil.rmtree(folder.root, ignore_errors=True)
        options = TrainingOptions(
            device=device,
            seed=request.seed,
            epochs=request.epochs,
            workers=compute_loader_count(device.type),
        )
        _train_fold(run, plan, name, fold=fold, cases=cases, options=options, progress=progress)
        summary = None
        if fold != ALL_CASES:
            summary = validate_fold(run, name, fold, cases=cases.validation, device=request.device, progress=progress)
        yield TrainedFold(fold=fold, folder=folder, summary=summary)


def find_configuration_name(plan: Plan, wanted: str | None) -> str:
    """The wanted configuration, or the first of 3d_fullres and 2d that is planned.

    Raises:
        TrainingError: It is not planned.
    """
    if wanted is None:
        return next(name for name in (*PREFERRED_CONFIGURATIONS, *plan.configurations) if name in plan.configurations)
    if wanted not in plan.configurations:
        msg = f"the plan has no configuration {wanted!r}; it has: {', '.join(plan.configurations)}"
        raise TrainingError(msg)
    return wanted


def compute_loader_count(device_type: str) -> int:
    """Processes that prepare patches."""
    if device_type == "cpu":
        return 1
    return max(1, min(MOST_WORKERS, count_usable_cores() - 1))


def _train_fold(
    run: RunFolder,
    plan: Plan,
    name: str,
    *,
    fold: str,
    cases: Fold,
    options: TrainingOptions,
    progress: Progress,
) -> None:
    folder = run.fold(name, fold)
    configuration = plan.configurations[name]
    if folder.final_checkpoint.exists():
        progress.note(f"{name}, fold {fold}: already trained (--restart trains anew)")
        return
    events = train(
        configuration,
        plan.labels,
        plan.channels,
        data_folder=run.preprocessed(configuration.data_of),
        fold=cases,
        output=folder,
        options=options,
    )
    first = next(events)
    _record_training(run, plan, name, fold=fold, options=options)
    epochs = options.epochs or configuration.training.epochs
    training = configuration.training
    per_epoch = training.iterations_per_epoch + training.validation_iterations_per_epoch
    iterations = _note_epochs(itertools.chain([first], events), epochs, progress)
    started_epoch = first.epoch if isinstance(first, IterationDone) else first.record.epoch
    progress.note(f"{name}, fold {fold}: {epochs - started_epoch} of {epochs} epochs to train on {options.device}")
    total = (epochs - started_epoch) * per_epoch
    for _ in progress.track(iterations, label=f"Training {fold}", total=total, unit="iteration"):
        pass


def _note_epochs(
    events: Iterator[IterationDone | EpochDone], epochs: int, progress: Progress
) -> Iterator[IterationDone]:
    for event in events:
        if isinstance(event, IterationDone):
            yield event
        else:
            progress.note(describe_epoch(event.record, epochs))


def describe_epoch(record: EpochRecord, epochs: int) -> str:
    """One line for the log."""
    dice = "-" if record.mean_pseudo_dice is None else f"{record.mean_pseudo_dice:.3f}"
    average = "-" if record.moving_average is None else f"{record.moving_average:.3f}"
    losses = " / ".join("-" if x is None else f"{x:.3f}" for x in (record.train_loss, record.validation_loss))
    return (
        f"epoch {record.epoch + 1}/{epochs}: loss {losses} (training / validation), pseudo Dice {dice} "
        f"(moving average {average}), {record.seconds:.0f} s, {record.seconds_per_iteration:.2f} s/iteration"
    )


def _record_training(run: RunFolder, plan: Plan, name: str, *, fold: str, options: TrainingOptions) -> None:
    folder = run.fold(name, fold)
    write_document(folder.plan, plan)
    record = TrainingRecord(
        configuration=name,
        fold=fold,
        epochs=options.epochs or plan.configurations[name].training.epochs,
        seed=options.seed,
        device=str(options.device),
        plan_sha256=hashlib.sha256(folder.plan.read_bytes()).hexdigest(),
        versions=measure_versions(),
    )
    write_document(folder.training_record, record)
