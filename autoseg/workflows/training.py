"""Trains folds of a configuration and validates each on whole volumes."""

import hashlib
import itertools
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import torch

from autoseg.document import Document, read_document, write_document
from autoseg.errors import TrainingError
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.host_memory import keep_freed_memory
from autoseg.networks.device import find_device
from autoseg.networks.precision import NumberType, Precision, find_number_type
from autoseg.plan import PREFERRED_CONFIGURATIONS, Plan
from autoseg.progress import Progress, Silent
from autoseg.run_folder import ALL_CASES, FoldFolder, open_run, remove_folder
from autoseg.training.checkpoint import CheckpointDescription, read_description
from autoseg.training.distributed import ALONE, Team, joined_team, read_team
from autoseg.training.folds import Splits, select_fold
from autoseg.training.loop import EpochDone, Event, IterationDone, Length, TrainingOptions, train
from autoseg.training.pace import Budget, Forecast
from autoseg.training.schedule import Schedule
from autoseg.training.trackers import TrackerName, Trackers, check_trackers, open_trackers
from autoseg.workflows.cascade import Cascade, find_cascade, list_untrained_folds, predict_held_out_cases
from autoseg.workflows.case_pool import count_usable_cores
from autoseg.workflows.fold_lock import locked
from autoseg.workflows.preprocessing import check_preprocessed, extract_recipe
from autoseg.workflows.training_job import FoldJob
from autoseg.workflows.training_report import describe_epoch, describe_forecast, describe_schedule
from autoseg.workflows.training_state import StateKeeper, state_kept
from autoseg.workflows.validation import estimate_validation_seconds, measure_volume_dice, validate_fold
from autoseg.workflows.versions import LibraryVersions, measure_versions

# Patches for a GPU need many processes; on a CPU the network itself needs the cores, and one process keeps up.
MOST_WORKERS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What the user asked for.

    Attributes:
        configuration: None takes 3d_fullres where it is planned, else 2d.
        folds: None takes every fold, one after the other. A cascade trains the missing folds of its first stage
            before, with the same length, budget, device, precision and seed.
        length: How long to train each fold.
        budget_seconds: Time for each fold, its validation included; None takes the plan's, if it has one and no
            number of epochs is given.
        precision: Numbers in which networks compute.
        seed: None takes that of the training that is continued, else 0.
        restart: Discard earlier trainings of these folds.
        workers: Processes that prepare patches; None goes by the cores.
        deterministic: The same result every time on a GPU, too.
        log_to: Where the history goes beside the log and TensorBoard.
        parallel: This process is one of several that train one fold together, each on a device of its own.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    length: Length = field(default_factory=Length)
    budget_seconds: float | None = None
    device: str = "auto"
    precision: Precision = "auto"
    seed: int | None = None
    restart: bool = False
    workers: int | None = None
    deterministic: bool = False
    log_to: tuple[TrackerName, ...] = ()
    parallel: bool = False


class TrainingRecord(Document):
    """How a model was made; everything else is in the plan beside it."""

    schema_version: Literal[1] = 1
    configuration: str
    fold: str
    seed: int
    device: str
    number_type: str
    plan_sha256: str
    versions: LibraryVersions


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedFold:
    """A finished training, also of a cascade's first stage; no summary for the fold "all", which holds nothing out."""

    fold: str
    folder: FoldFolder
    summary: EvaluationSummary | None


def train_run(run_root: Path, request: TrainingRequest, *, progress: Progress) -> Iterator[TrainedFold]:
    """Trains and validates the requested folds; yields each when it is finished, and continues what was interrupted.

    Raises:
        RunError: There is no run, or its preprocessed data is incomplete.
        PlanError: The configuration is not planned.
        PredictionError: The first stage of a cascade was trained by another plan.
        TrainingError: The fold does not exist, a cascade has no fold that holds a case out, or training failed.
        DeviceError: The device does not exist or is too small.
    """
    run = open_run(run_root)
    plan = read_document(run.plan, Plan)
    name = find_configuration_name(plan, request.configuration)
    configuration = plan.configurations[name]
    splits = read_document(run.splits, Splits)
    folds = request.folds or tuple(str(index) for index in range(len(splits.folds)))
    chosen = {fold: select_fold(splits, fold) for fold in folds}
    device = find_device(request.device)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or other GPUs would hold something of this process, too
    for cases in chosen.values():
        check_preprocessed(run, plan, configuration.data_of, sorted({*cases.training, *cases.validation}))
    previous = None
    cascade = find_cascade(run, plan, name, splits)
    if cascade is not None:
        yield from train_first_stage(cascade, request, progress=progress)
        previous = predict_held_out_cases(cascade, device=request.device, progress=progress)
    number_type = find_number_type(device, request.precision)
    if device.type == "cpu" and number_type != "float32":
        progress.note(
            f"networks compute in {number_type}, which this processor does faster (--precision float32 if not)"
        )
    check_trackers(request.log_to)
    for fold, cases in chosen.items():
        job = FoldJob(run=run, plan=plan, configuration=name, fold=fold, cases=cases, device=device, previous=previous)
        if request.parallel and not read_team().is_leader:
            follow_training(job, request, number_type)
        else:
            yield lead_training(job, request, number_type, progress=progress)


def train_first_stage(cascade: Cascade, request: TrainingRequest, *, progress: Progress) -> Iterator[TrainedFold]:
    """Trains and validates the folds of the first stage that are not finished; finished ones are left alone.

    Raises:
        AutosegError: As `train_run`.
    """
    name, waiting = cascade.first_stage, list_untrained_folds(cascade)
    for fold in cascade.folds:
        check_same_recipe(cascade.run.fold(name, fold), cascade.plan, name)
    if not waiting:
        return
    progress.note(
        f"{cascade.configuration} is trained on what {name} predicts for cases that it never saw, so {name} is "
        f"trained first (fold {', '.join(waiting)})"
    )
    length = replace(request.length, more_epochs=None)
    first = replace(request, configuration=name, folds=waiting, length=length, restart=False)
    yield from train_run(cascade.run.root, first, progress=progress)


def find_configuration_name(plan: Plan, wanted: str | None) -> str:
    """The wanted configuration, or the preferred one of those that are planned.

    Raises:
        PlanError: It is not planned.
    """
    if wanted is None:
        return next(name for name in (*PREFERRED_CONFIGURATIONS, *plan.configurations) if name in plan.configurations)
    plan.get_configuration(wanted)
    return wanted


def resolve_options(
    job: FoldJob, request: TrainingRequest, number_type: NumberType, *, progress: Progress, team: Team = ALONE
) -> TrainingOptions:
    """What was not asked for is taken from the training that is already there.

    Raises:
        TrainingError: Its checkpoint is damaged.
    """
    if request.length.until_plateau and job.fold == ALL_CASES:
        msg = 'the fold "all" holds no case out on which a plateau could show; choose a fold, or give --epochs'
        raise TrainingError(msg)
    begun = find_begun(job.folder)
    seed = request.seed
    if seed is None:
        seed = 0 if begun is None else begun.identity.seed
    return TrainingOptions(
        device=job.device,
        seed=seed,
        workers=compute_loader_count(job.device.type) if request.workers is None else request.workers,
        length=request.length,
        budget=find_budget(job, request, begun, progress) if team.is_leader else None,
        number_type=number_type,
        measure_dice=partial(
            measure_volume_dice,
            run=job.run,
            plan=job.plan,
            configuration=job.configuration,
            cases=job.cases.validation,
        )
        if team.is_leader
        else None,
        team=team,
        deterministic=request.deterministic,
    )


def find_begun(folder: FoldFolder) -> CheckpointDescription | None:
    """The newest checkpoint from which a training can go on.

    Raises:
        TrainingError: It is damaged.
    """
    paths = (folder.final_checkpoint, folder.latest_checkpoint)
    descriptions = [read_description(path) for path in paths if path.exists()]
    return max(descriptions, key=lambda description: len(description.history), default=None)


def find_budget(
    job: FoldJob, request: TrainingRequest, begun: CheckpointDescription | None, progress: Progress
) -> Budget | None:
    """The time that is left for a fold.

    A budget that is asked for counts from now; the plan's counts what earlier calls have spent already, and gives way
    to a number of epochs.
    """
    seconds = request.budget_seconds
    if seconds is None and request.length == Length():
        planned = job.configuration_plan.training.budget_seconds
        spent = 0.0 if begun is None else sum(record.seconds for record in begun.history)
        seconds = None if planned is None else planned - spent
    is_finished = (
        begun is not None and job.folder.final_checkpoint.exists() and not job.folder.latest_checkpoint.exists()
    )
    if seconds is None or (is_finished and request.length.more_epochs is None):
        return None
    start = time.monotonic()
    progress.note("measuring how fast this machine trains and validates")
    reserved = 0.0
    if job.fold != ALL_CASES:
        reserved = estimate_validation_seconds(
            job.run, job.plan, job.configuration, cases=job.cases.validation, device=job.device
        )
    return Budget(seconds=seconds, reserved_seconds=reserved, start=start)


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


def start_training(job: FoldJob, options: TrainingOptions) -> Iterator[Event]:
    """Trains, and yields what happens.

    Raises:
        TrainingError: It cannot be continued, or failed.
    """
    check_same_recipe(job.folder, job.plan, job.configuration)
    return train(
        job.configuration_plan,
        job.plan.labels,
        job.plan.channels,
        data_folder=job.run.preprocessed(job.configuration_plan.data_of),
        fold=job.cases,
        output=job.folder,
        options=options,
        previous=job.previous,
    )


def train_fold(
    job: FoldJob, options: TrainingOptions, *, keeper: StateKeeper, trackers: Trackers, progress: Progress
) -> None:
    """Trains, and tells how it goes; a validation of an earlier state of the model is discarded.

    Raises:
        TrainingError: It cannot be continued, or failed.
    """
    events = keeper.follow(trackers.follow(start_training(job, options), job.plan.labels.class_names))
    first = next(events, None)
    if first is None:
        progress.note(f"{job.configuration}, fold {job.fold}: already trained (--restart trains anew)")
        return
    remove_folder(job.folder.validation)
    _record_training(job, options)
    schedule = first.schedule if isinstance(first, Forecast) else first
    total = _count_iterations(job, schedule) if isinstance(schedule, Schedule) else 0
    iterations = _note_events(itertools.chain([first], events), job, progress)
    for _ in progress.track(iterations, label=f"Training {job.fold}", total=total, unit="iteration"):
        pass


def lead_training(
    job: FoldJob, request: TrainingRequest, number_type: NumberType, *, progress: Progress
) -> TrainedFold:
    """Trains and validates one fold, which no other process can do meanwhile.

    Raises:
        TrainingError: Another process does, or training failed.
    """
    label = f"{read_team().size} x {job.device.type}" if request.parallel else str(job.device)
    with locked(job.folder, device=label):
        if request.restart:
            remove_folder(job.folder.root)
        with (
            state_kept(job.folder, device=label) as keeper,
            open_trackers(request.log_to, job.folder.trackers, job.describe()) as trackers,
        ):
            with join_if_parallel(job, request) as team:
                with team.leader_first():
                    options = resolve_options(job, request, number_type, progress=progress, team=team)
                train_fold(job, options, keeper=keeper, trackers=trackers, progress=progress)
            return _validate(job, keeper=keeper, trackers=trackers, progress=progress)


def follow_training(job: FoldJob, request: TrainingRequest, number_type: NumberType) -> None:
    """Trains a part of every batch for the process that leads, and writes nothing.

    Raises:
        TrainingError: It cannot be continued.
    """
    with join_if_parallel(job, request) as team:
        with team.leader_first():
            options = resolve_options(job, request, number_type, progress=Silent(), team=team)
        for _ in start_training(job, options):
            pass


def join_if_parallel(job: FoldJob, request: TrainingRequest) -> AbstractContextManager[Team]:
    """The processes that train together: for a parallel training those that were started for it."""
    return joined_team(job.device) if request.parallel else nullcontext(ALONE)


def _validate(job: FoldJob, *, keeper: StateKeeper, trackers: Trackers, progress: Progress) -> TrainedFold:
    summary = None
    if job.fold != ALL_CASES:
        summary = validate_fold(
            job.run,
            job.configuration,
            job.fold,
            cases=job.cases.validation,
            device=str(job.device),
            progress=keeper.follow_cases(progress),
        )
        if summary.foreground_mean.Dice is not None:
            begun = find_begun(job.folder)
            epochs = 0 if begun is None else len(begun.history)
            trackers.log({"validation/dice": summary.foreground_mean.Dice}, epoch=epochs)
    return TrainedFold(fold=job.fold, folder=job.folder, summary=summary)


def _count_iterations(job: FoldJob, schedule: Schedule) -> int:
    """What is left to train, as far as it is known."""
    begun = find_begun(job.folder)
    end = schedule.end_epoch or job.configuration_plan.training.epochs
    epochs = max(0, end - (0 if begun is None else len(begun.history)))
    return epochs * (schedule.iterations_per_epoch + schedule.validation_iterations_per_epoch)


def _note_events(events: Iterator[Event], job: FoldJob, progress: Progress) -> Iterator[IterationDone]:
    name = f"{job.configuration}, fold {job.fold}"
    for event in events:
        if isinstance(event, IterationDone):
            yield event
        elif isinstance(event, EpochDone):
            progress.note(describe_epoch(event.record, event.schedule.end_epoch))
        elif isinstance(event, Forecast):
            progress.note(describe_forecast(event))
            progress.note(f"{name}: {describe_schedule(event.schedule)} on {job.device}")
        else:
            progress.note(f"{name}: {describe_schedule(event)} on {job.device}")


def _record_training(job: FoldJob, options: TrainingOptions) -> None:
    write_document(job.folder.plan, job.plan)
    record = TrainingRecord(
        configuration=job.configuration,
        fold=job.fold,
        seed=options.seed,
        device=str(options.device),
        number_type=options.number_type,
        plan_sha256=hashlib.sha256(job.folder.plan.read_bytes()).hexdigest(),
        versions=measure_versions(),
    )
    write_document(job.folder.training_record, record)
