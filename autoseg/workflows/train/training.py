"""Trains the folds of one configuration in this process and validates each on whole volumes."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document
from autoseg.errors import RunError, describe_folds
from autoseg.files.temporary_files import remove_leftovers
from autoseg.networks.cost import count_cost
from autoseg.networks.memory_limits import check_training_memory
from autoseg.plan.document import PREFERRED_CONFIGURATIONS, Plan
from autoseg.processes.fold_lock import lock_fold
from autoseg.processes.progress import Progress, SilentProgress
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import ALL_CASES, RunFolder, open_run, remove_folder
from autoseg.runtime.cpu_threads import adaptive_cpu_threads
from autoseg.runtime.device import find_device, prepare_determinism
from autoseg.runtime.distributed import SINGLE_PROCESS, ProcessGroup, join_process_group, read_process_group
from autoseg.runtime.host_memory import keep_freed_memory
from autoseg.runtime.precision import DtypeName, find_dtype
from autoseg.stages.out_of_fold import StageLink
from autoseg.training.budget.pace import Forecast, count_iterations
from autoseg.training.checkpoint import CheckpointDescription, read_description
from autoseg.training.data.training_data import TrainingData
from autoseg.training.monitoring.events import EpochDone, Event, IterationDone
from autoseg.training.monitoring.history import read_last_record
from autoseg.training.monitoring.progress_picture import write_progress_picture
from autoseg.training.monitoring.trackers import Trackers, check_trackers, open_trackers
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train
from autoseg.validation_conditions import describe_shortage
from autoseg.workflows.cascade import find_link, learn_box, prepare_stage_input
from autoseg.workflows.evaluate.validation import validate_fold
from autoseg.workflows.folds.state import StateWriter, keep_state
from autoseg.workflows.folds.status import ValidationChoice
from autoseg.workflows.plan.preprocessing import check_has_data, check_preprocessed
from autoseg.workflows.train.fold_options import (
    add_synthetic_cases,
    build_training_options,
    check_same_recipe,
    find_newest_checkpoint,
)
from autoseg.workflows.train.fold_time import FoldTime, check_forecast, find_fold_time
from autoseg.workflows.train.initial_weights import (
    find_initial_weights,
    find_stage_weights,
    find_teacher,
    list_differences,
)
from autoseg.workflows.train.interruption import describe_interruptions, describe_start, set_aside
from autoseg.workflows.train.job import FoldJob, TrainedFold, record_training
from autoseg.workflows.train.label_prior import train_label_autoencoder
from autoseg.workflows.train.report import describe_epoch, describe_forecast, describe_schedule
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.units import list_arguments


def train_run(
    run_root: Path, request: TrainingRequest, *, progress: Progress, stop: StopRequest | None = None
) -> Iterator[TrainedFold]:
    """Trains and validates the requested folds; yields each finished fold, and continues interrupted ones.

    Args:
        run_root: Run folder.
        request: Options of the training.
        progress: Receives notes and progress.
        stop: Receives requests to end; the state of the training is saved first.

    Raises:
        RunError: There is no run, or its preprocessed data is incomplete.
        PlanError: The configuration is not planned.
        PredictionError: A previous stage was trained by another plan.
        TrainingError: The fold does not exist, no fold of the previous stage holds a case out, or training failed.
        DeviceError: The device does not exist or is too small.
    """
    stop = stop or StopRequest()
    if request.deterministic:
        prepare_determinism()
    device = find_device(request.device)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # otherwise this process would also allocate memory on other GPUs
    with adaptive_cpu_threads(device, announce=progress.note, is_fixed=request.deterministic):
        yield from _train_on_device(open_run(run_root), request, device, progress=progress, stop=stop)


def _train_on_device(
    run: RunFolder, request: TrainingRequest, device: torch.device, *, progress: Progress, stop: StopRequest
) -> Iterator[TrainedFold]:
    plan = read_document(run.plan, Plan)
    check_has_data(run, plan)
    name = find_configuration_name(plan, request.configuration)
    configuration = plan.configurations[name]
    process_count = read_process_group().size if request.parallel else 1
    check_training_memory(configuration, name, device, count=count_cost, process_count=process_count)
    splits = read_document(run.splits, Splits)
    folds = request.folds or tuple(str(index) for index in range(len(splits.folds)))
    chosen = {fold: select_fold(splits, fold) for fold in folds}
    for cases in chosen.values():
        check_preprocessed(run, plan, configuration.data_of, sorted({*cases.training, *cases.validation}))
    previous = None
    link = find_link(run, plan, name, splits)
    if link is not None:
        yield from train_previous_stage(link, request, progress=progress, stop=stop)
        link = learn_box(link, device=request.device, progress=progress)
        plan = link.plan
        previous = prepare_stage_input(link, device=request.device, progress=progress)
    dtype = find_dtype(device, request.precision)
    if dtype != "float32":
        where = "CPU" if device.type == "cpu" else "GPU"
        progress.note(f"networks compute in {dtype}, which is faster on this {where} (else: --precision float32)")
    check_trackers(request.log_to)
    arguments = tuple(list_arguments(request))
    describe = partial(FoldJob, run=run, plan=plan, configuration=name, device=device, previous=previous)
    for fold, cases in chosen.items():
        job = describe(fold=fold, cases=cases, arguments=arguments)
        if request.initial_weights is not None:
            weights = find_initial_weights(request.initial_weights, job)
            for difference in list_differences(weights, plan):
                progress.note(difference)
            job = replace(job, initial_weights=weights)
        elif link is not None and link.begins_with_previous:
            job = replace(job, stage_weights=find_stage_weights(link, fold))
        if request.teacher is not None:
            job = replace(job, teacher=find_teacher(request.teacher, job))
        if request.parallel and not read_process_group().is_main_process:
            follow_training(job, request, dtype, stop=stop)
        else:
            with describe_interruptions(job.folder, request, name=job.name):
                trained = lead_training(job, request, dtype, progress=progress, stop=stop)
            yield trained


def train_previous_stage(
    link: StageLink, request: TrainingRequest, *, progress: Progress, stop: StopRequest
) -> Iterator[TrainedFold]:
    """Trains and validates the unfinished folds of the previous stage.

    Raises:
        AutosegError: As `train_run`.
    """
    name, waiting = link.previous, link.list_untrained_folds()
    for folder in link.folds.values():
        check_same_recipe(folder, link.plan, name)
    if not waiting:
        return
    progress.note(
        f"{link.configuration} is trained on what {name} predicts for cases that it never saw, so {name} is "
        f"trained first ({describe_folds(waiting)})"
    )
    length = replace(request.length, more_epochs=None)
    source = request.initial_weights
    initial = source if source is not None and source.is_dir() else None  # a file has the weights of one configuration
    single = replace(request, configuration=name, folds=waiting, length=length)
    previous = replace(single, restart=False, initial_weights=initial, synthetic=False)
    yield from train_run(link.run.root, previous, progress=progress, stop=stop)


def find_configuration_name(plan: Plan, wanted: str | None) -> str:
    """Returns the wanted configuration, or the preferred one of the planned ones.

    Raises:
        PlanError: The wanted configuration is not planned.
    """
    if wanted is None:
        return next(name for name in (*PREFERRED_CONFIGURATIONS, *plan.configurations) if name in plan.configurations)
    plan.get_configuration(wanted)
    return wanted


def start_training(job: FoldJob, options: TrainingOptions) -> Iterator[Event]:
    """Starts or resumes a training and yields its events.

    Raises:
        TrainingError: The training cannot be continued, or failed.
    """
    check_same_recipe(job.folder, job.plan, job.configuration)
    data = TrainingData(
        labels=job.configuration_plan.choose_network_labels(job.plan.labels),
        channels=job.plan.channels,
        folder=job.run.preprocessed(job.configuration_plan.data_of),
        fold=job.cases,
        previous=job.previous,
        synthetic=job.synthetic,
    )
    plan, folder = job.configuration_plan, job.folder
    prior = train_label_autoencoder(plan, data, folder=folder.root, options=options)
    return train(plan, data, output=folder, options=replace(options, label_autoencoder=prior))


def train_fold(
    job: FoldJob,
    options: TrainingOptions,
    *,
    state_writer: StateWriter,
    trackers: Trackers,
    progress: Progress,
    fold_time: FoldTime,
    checkpoint: CheckpointDescription | None,
    on_begin: Callable[[], None],
) -> None:
    """Trains one fold and reports its events; a validation of an earlier state of the model is discarded.

    Args:
        on_begin: Called when nothing is refused any more.

    Raises:
        TrainingError: The training cannot be continued, would be too short, or failed.
    """
    start = describe_start(job.folder, checkpoint)
    if start is not None:
        progress.note(f"{job.name}: {start}")
    names = job.configuration_plan.choose_network_labels(job.plan.labels).class_names
    tracked = trackers.follow(start_training(job, options), names)
    events = state_writer.follow(tracked)
    first = next(events, None)
    if first is None:
        progress.note(f"{job.name}: already trained (--restart trains anew)")
        return
    if isinstance(first, Forecast):
        progress.note(describe_forecast(first))
        check_forecast(job, first, fold_time, checkpoint)
    on_begin()
    record_training(job, options)
    remove_folder(job.folder.validation)
    schedule = first.schedule if isinstance(first, Forecast) else first
    total = partial(_count_iterations, job, schedule, checkpoint, state_writer) if isinstance(schedule, Schedule) else 0
    iterations = _note_events(itertools.chain([schedule], events), job, state_writer=state_writer, progress=progress)
    for _ in progress.track(iterations, label=f"Training {job.fold}", total=total, unit="iteration"):
        pass


def lead_training(
    job: FoldJob, request: TrainingRequest, dtype: DtypeName, *, progress: Progress, stop: StopRequest
) -> TrainedFold:
    """Trains and validates one fold while holding its lock.

    Raises:
        TrainingError: Another process trains the fold, or training failed.
    """
    label = f"{read_process_group().size} x {job.device.type}" if request.parallel else str(job.device)
    with (
        lock_fold(job.folder, device=label),
        set_aside(job.folder, is_restart=request.restart, announce=progress.note) as discard_earlier,
    ):
        remove_leftovers(job.folder.root, is_exclusive=True)
        with (
            keep_state(job.folder, device=label) as state_writer,
            open_trackers(request.log_to, job.folder.trackers, job.describe()) as trackers,
        ):
            with join_if_parallel(job, request) as process_group:
                with process_group.main_process_first():
                    checkpoint = find_newest_checkpoint(job.folder)
                    job = add_synthetic_cases(job, request, checkpoint, progress)
                    fold_time = find_fold_time(job, request, checkpoint, progress)
                    options = build_training_options(
                        job,
                        request,
                        dtype,
                        checkpoint=checkpoint,
                        budget=fold_time.budget,
                        progress=progress,
                        process_group=process_group,
                    )
                options = replace(options, stop=stop, title=job.title)
                train_fold(
                    job,
                    options,
                    state_writer=state_writer,
                    trackers=trackers,
                    progress=progress,
                    fold_time=fold_time,
                    checkpoint=checkpoint,
                    on_begin=discard_earlier,
                )
            return _validate(job, fold_time.validation, state_writer=state_writer, trackers=trackers, progress=progress)


def follow_training(job: FoldJob, request: TrainingRequest, dtype: DtypeName, *, stop: StopRequest) -> None:
    """Trains on a part of every batch for the leading process, and writes nothing.

    Raises:
        TrainingError: The training cannot be continued.
    """
    with join_if_parallel(job, request) as process_group:
        with process_group.main_process_first():
            checkpoint = find_newest_checkpoint(job.folder)
            job = add_synthetic_cases(job, request, checkpoint, SilentProgress())
            options = build_training_options(
                job, request, dtype, checkpoint=checkpoint, progress=SilentProgress(), process_group=process_group
            )
        for _ in start_training(job, replace(options, stop=stop)):
            pass


def join_if_parallel(job: FoldJob, request: TrainingRequest) -> AbstractContextManager[ProcessGroup]:
    """Joins the processes that train one fold together; a training in one process is a group of its own."""
    return join_process_group(job.device) if request.parallel else nullcontext(SINGLE_PROCESS)


def _validate(
    job: FoldJob,
    choice: ValidationChoice | None,
    *,
    state_writer: StateWriter,
    trackers: Trackers,
    progress: Progress,
) -> TrainedFold:
    trained = read_description(job.folder.final_checkpoint).trained_iterations
    shortage = describe_shortage(trained, job.configuration_plan.training.sufficient_iterations)
    state_writer.change(warning=shortage)
    summary = None
    if job.fold != ALL_CASES:
        summary = validate_fold(
            job.run,
            job.configuration,
            job.fold,
            cases=job.cases.validation,
            device=str(job.device),
            progress=state_writer.record_validation(progress),
            choice=choice,
        )
        _draw_validated(job, summary.foreground_mean.Dice, progress)
        if summary.foreground_mean.Dice is not None:
            record = read_last_record(job.folder.training_log)
            epochs = 0 if record is None else record.epoch + 1
            trackers.log({"validation/dice": summary.foreground_mean.Dice}, epoch=epochs)
    return TrainedFold(fold=job.fold, folder=job.folder, summary=summary, shortage=shortage)


def _draw_validated(job: FoldJob, dice: float | None, progress: Progress) -> None:
    """Draws the progress picture again, with the result of the validation; the fold is finished without it, too."""
    trained = read_description(job.folder.final_checkpoint)
    try:
        write_progress_picture(
            job.folder.progress_picture, trained.history, trained.schedule, title=job.title, validation_dice=dice
        )
    except RunError as error:
        progress.note(f"warning: {error}; the same command, given again, draws the picture")


def _count_iterations(
    job: FoldJob, schedule: Schedule, checkpoint: CheckpointDescription | None, state_writer: StateWriter
) -> int:
    """Counts the iterations of this call, as far as known; their end may change while it trains."""
    epochs_done, iterations_done = (0, 0) if checkpoint is None else checkpoint.reached
    end = state_writer.state.end_epoch or job.configuration_plan.training.epochs
    per_epoch = schedule.iterations_per_epoch + schedule.validation_iterations_per_epoch
    return max(0, (end - epochs_done) * per_epoch - iterations_done)


def _note_events(
    events: Iterator[Event], job: FoldJob, *, state_writer: StateWriter, progress: Progress
) -> Iterator[IterationDone]:
    for event in events:
        if isinstance(event, IterationDone):
            yield event
        elif isinstance(event, EpochDone):
            progress.note(describe_epoch(event.record, event.schedule.end_epoch))
        elif isinstance(event, Schedule):
            progress.note(f"{job.name}: {describe_schedule(event)} on {job.device}")
            _warn_of_shortage(event, job, state_writer=state_writer, progress=progress)


def _warn_of_shortage(schedule: Schedule, job: FoldJob, *, state_writer: StateWriter, progress: Progress) -> None:
    iterations = count_iterations(schedule)
    needed = job.configuration_plan.training.sufficient_iterations
    shortage = None if iterations is None else describe_shortage(iterations, needed)
    state_writer.change(warning=shortage)
    if shortage is not None:
        progress.note(f"warning: {shortage}")
