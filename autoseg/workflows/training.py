"""Trains folds of a configuration and validates each on whole volumes."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from autoseg.document import Document, read_document, write_document
from autoseg.errors import TrainingError
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.host_memory import keep_freed_memory
from autoseg.networks.device import find_device
from autoseg.plan import PREFERRED_CONFIGURATIONS, Plan
from autoseg.progress import Progress
from autoseg.run_folder import ALL_CASES, FoldFolder, RunFolder, open_run, remove_folder
from autoseg.training.checkpoint import read_description
from autoseg.training.folds import Fold, Splits, select_fold
from autoseg.training.history import EpochRecord
from autoseg.training.loop import EpochDone, IterationDone, TrainingOptions, check_trainable, train
from autoseg.workflows.case_pool import count_usable_cores
from autoseg.workflows.preprocessing import check_preprocessed, extract_recipe
from autoseg.workflows.validation import validate_fold
from autoseg.workflows.versions import LibraryVersions, measure_versions

# Patches for a GPU need many processes; on a CPU the network itself needs the cores, and one process keeps up.
MOST_WORKERS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What the user asked for.

    Attributes:
        configuration: None takes 3d_fullres where it is planned, else 2d.
        folds: None takes every fold, one after the other.
        epochs: None takes those of the training that is continued, else the plan's.
        seed: None takes that of the training that is continued, else 0.
        restart: Discard earlier trainings of these folds.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    epochs: int | None = None
    device: str = "auto"
    seed: int | None = None
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
        PlanError: The configuration is not planned.
        TrainingError: The fold does not exist, the configuration cannot be trained, or training failed.
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
            remove_folder(folder.root)
        options = resolve_options(request, folder, device)
        _train_fold(run, plan, name, fold=fold, cases=cases, options=options, progress=progress)
        summary = None
        if fold != ALL_CASES:
            summary = validate_fold(run, name, fold, cases=cases.validation, device=request.device, progress=progress)
        yield TrainedFold(fold=fold, folder=folder, summary=summary)


def find_configuration_name(plan: Plan, wanted: str | None) -> str:
    """The wanted configuration, or the preferred one of those that are planned.

    Raises:
        PlanError: It is not planned.
    """
    if wanted is None:
        return next(name for name in (*PREFERRED_CONFIGURATIONS, *plan.configurations) if name in plan.configurations)
    plan.get_configuration(wanted)
    return wanted


def resolve_options(request: TrainingRequest, folder: FoldFolder, device: torch.device) -> TrainingOptions:
    """What was not asked for is taken from the training that is already there.

    Raises:
        TrainingError: Its checkpoint is damaged.
    """
    epochs, seed = request.epochs, request.seed
    for checkpoint in (folder.final_checkpoint, folder.latest_checkpoint):
        if checkpoint.exists():
            begun = read_description(checkpoint).identity
            epochs = begun.epochs if epochs is None else epochs
            seed = begun.seed if seed is None else seed
            break
    return TrainingOptions(
        device=device, seed=0 if seed is None else seed, epochs=epochs, workers=compute_loader_count(device.type)
    )


def check_same_recipe(folder: FoldFolder, plan: Plan, name: str) -> None:
    """Checks that what is there was trained on arrays like those of the plan.

    Raises:
        TrainingError: Axes, normalization, spacing or labels have changed since.
    """
    if not (folder.final_checkpoint.exists() or folder.latest_checkpoint.exists()):
        return
    if extract_recipe(read_document(folder.plan, Plan), name) != extract_recipe(plan, name):
        msg = (
            f"{folder.root} was trained by another plan ({folder.plan}): orientation, axes, normalization, labels or "
            f"spacing differ; put plan.json back, or begin again with --restart"
        )
        raise TrainingError(msg)


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
    check_same_recipe(folder, plan, name)
    events = train(
        configuration,
        plan.labels,
        plan.channels,
        data_folder=run.preprocessed(configuration.data_of),
        fold=cases,
        output=folder,
        options=options,
    )
    first = next(events, None)
    if first is None:
        progress.note(f"{name}, fold {fold}: already trained (--restart trains anew)")
        return
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
