"""Trains the requested folds: a single one in this process, several in a process each, or at another place."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from autoseg.errors import Stopped, quote_path
from autoseg.places.place import Place
from autoseg.processes.progress import Progress, format_duration
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import open_run
from autoseg.training.monitoring.trackers import check_trackers
from autoseg.workflows.evaluate.crossvalidation import collect_crossvalidation
from autoseg.workflows.folds.status import FoldStatus
from autoseg.workflows.train.detached import ForecastCpu, build_detached_queue, check_place, mark_restarts
from autoseg.workflows.train.device_groups import find_device_groups, is_main_process, is_one_process
from autoseg.workflows.train.device_watch import DeviceWatch, describe_shared_devices
from autoseg.workflows.train.job import TrainedFold, TrainingOutcome
from autoseg.workflows.train.queue import TrainingQueue, build_queue
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.training import train_run
from autoseg.workflows.train.units import list_units

ShowStatuses = Callable[[Iterable[tuple[FoldStatus, ...]]], None]
"""Shows the states of all folds as they come."""


def train_folds(
    run_root: Path,
    request: TrainingRequest,
    *,
    devices: str | None,
    autoseg: Sequence[str] | None = None,
    place: Place | None = None,
    forecast_cpu: ForecastCpu | None = None,
    report_fold: Callable[[TrainedFold], None],
    show_statuses: ShowStatuses,
    progress: Progress,
    stop: StopRequest,
) -> TrainingOutcome:
    """Trains and validates every requested configuration and fold; continues what was interrupted.

    Args:
        run_root: Run folder.
        request: The requested training. Its device counts where `devices` is None.
        devices: List of devices, such as "0,1" (CUDA) or "cpu"; each trains one fold at a time.
        autoseg: The command that is `autoseg`, for processes that train one fold each; None: `python -m autoseg`.
        place: Trains the folds; None: this computer.
        forecast_cpu: Forecasts folds on CPUs, for the time limits of jobs.
        report_fold: Called with each fold that is trained in this process.
        show_statuses: Called once with the states of folds that are trained in processes of their own.
        progress: Receives notes and progress.
        stop: Receives requests to end; the state of a training is saved first.

    Raises:
        OptionError: Options contradict each other.
        AutosegError: As `list_units` and `train_run`.
        Stopped: After an interruption; the message says what was saved.
    """
    check_place(request, place, devices)
    if place is not None and place.is_detached:
        units = list_units(run_root, request, progress=progress)
        queue = build_detached_queue(
            open_run(run_root), units, request, place, autoseg=autoseg, forecast_cpu=forecast_cpu
        )
        return _train_detached(queue, request, show_statuses, progress=progress, stop=stop)
    groups = find_device_groups(request.device, devices, parallel=request.parallel)
    units = list_units(run_root, request, progress=progress)
    failures: tuple[str, ...] = ()
    if is_one_process([unit.name for unit in units], groups, parallel=request.parallel):
        single = replace(request, configuration=units[0].configuration, folds=(units[0].fold,), device=groups[0][0])
        with stop.handle_signals():
            for trained in train_run(run_root, single, progress=progress, stop=stop):
                report_fold(trained)
    else:
        check_trackers(request.log_to)
        queue = build_queue(run_root, units, request, groups, autoseg=autoseg, stop=stop)
        for line in _describe_queue(queue, request.budget_seconds, groups):
            progress.note(line)
        failures = _run_queue(queue, request, show_statuses, progress=progress, stop=stop)
    if not is_main_process(parallel=request.parallel):
        return TrainingOutcome(is_main_process=False)
    return TrainingOutcome(is_main_process=True, failures=failures, crossvalidation=collect_crossvalidation(run_root))


def describe_training(
    run_root: Path,
    request: TrainingRequest,
    *,
    place: Place,
    devices: str | None,
    autoseg: Sequence[str] | None,
    forecast_cpu: ForecastCpu | None = None,
    progress: Progress,
) -> str:
    """Describes what `train_folds` would give to a place; nothing is changed.

    Raises:
        AutosegError: As `list_units`.
    """
    check_place(request, place, devices)
    if place.is_detached:
        units = list_units(run_root, request, progress=progress)
        queue = build_detached_queue(
            open_run(run_root), units, request, place, autoseg=autoseg, forecast_cpu=forecast_cpu
        )
    else:
        groups = find_device_groups(request.device, devices, parallel=request.parallel)
        units = list_units(run_root, request, progress=progress)
        queue = build_queue(run_root, units, request, groups, autoseg=autoseg)
    return queue.place.describe_tasks(queue.list_tasks())


def _train_detached(
    queue: TrainingQueue,
    request: TrainingRequest,
    show_statuses: ShowStatuses,
    *,
    progress: Progress,
    stop: StopRequest,
) -> TrainingOutcome:
    root = queue.run.root
    check_trackers(request.log_to)
    mark_restarts(queue.run, queue, request)
    progress.note(
        f"{len(queue.tasks)} of {len(queue.units)} folds to train as jobs, which continue without this command (Ctrl-C "
        f"ends it alone); their output goes to {queue.run.logs}"
    )
    for origin in dict.fromkeys(task.resources.time_origin for task in queue.list_tasks()):
        if origin is not None:
            progress.note(f"time limits of jobs come from {origin}, unless slurm.json or --slurm has time_minutes")
    try:
        with stop.handle_signals(), closing(queue.run_all()) as snapshots:
            show_statuses(snapshots)
    except KeyboardInterrupt as interruption:
        name = quote_path(root)
        msg = f"the jobs continue: `autoseg status {name}` shows them, `autoseg cancel {name}` ends them"
        raise Stopped(msg) from interruption
    return TrainingOutcome(
        is_main_process=True,
        failures=queue.list_failures(),
        crossvalidation=collect_crossvalidation(root),
    )


def _run_queue(
    queue: TrainingQueue,
    request: TrainingRequest,
    show_statuses: ShowStatuses,
    *,
    progress: Progress,
    stop: StopRequest,
) -> tuple[str, ...]:
    try:
        with stop.handle_signals(), closing(queue.run_all()) as snapshots:
            show_statuses(DeviceWatch(announce=progress.note).follow(snapshots))
    except KeyboardInterrupt as interruption:
        raise Stopped(queue.describe_interruption(request)) from interruption
    return queue.list_failures()


def _describe_queue(
    queue: TrainingQueue, budget_seconds: float | None, device_groups: Sequence[tuple[str, ...]]
) -> list[str]:
    lines = [f"{len(queue.tasks)} of {len(queue.units)} folds to train; their output goes to {queue.run.logs}"]
    if budget_seconds is not None and queue.tasks:
        rounds = -(-len(queue.tasks) // len(device_groups))
        lines.append(
            f"each of them gets {format_duration(budget_seconds)}, so all take up to "
            f"{format_duration(rounds * budget_seconds)}"
        )
    return [*lines, *describe_shared_devices([name for group in device_groups for name in group])]
