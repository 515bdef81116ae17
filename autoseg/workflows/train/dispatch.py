"""Trains the requested folds: a single one in this process, several in a process each."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from autoseg.errors import Stopped
from autoseg.processes.progress import Progress, format_duration
from autoseg.processes.signals import StopRequest
from autoseg.training.monitoring.trackers import check_trackers
from autoseg.workflows.evaluate.crossvalidation import collect_crossvalidation
from autoseg.workflows.folds.status import FoldStatus
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
        report_fold: Called with each fold that is trained in this process.
        show_statuses: Called once with the states of folds that are trained in processes of their own.
        progress: Receives notes and progress.
        stop: Receives requests to end; the state of a training is saved first.

    Raises:
        OptionError: Options contradict each other.
        AutosegError: As `list_units` and `train_run`.
        Stopped: After an interruption; the message says what was saved.
    """
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
        failures = _run_queue(queue, request, show_statuses, progress=progress)
    if not is_main_process(parallel=request.parallel):
        return TrainingOutcome(is_main_process=False)
    return TrainingOutcome(is_main_process=True, failures=failures, crossvalidation=collect_crossvalidation(run_root))


def _run_queue(
    queue: TrainingQueue, request: TrainingRequest, show_statuses: ShowStatuses, *, progress: Progress
) -> tuple[str, ...]:
    for line in _describe_queue(queue, request.budget_seconds):
        progress.note(line)
    try:
        with queue.stop.handle_signals(), closing(queue.run_all()) as snapshots:
            show_statuses(DeviceWatch(announce=progress.note).follow(snapshots))
    except KeyboardInterrupt as interruption:
        raise Stopped(queue.describe_interruption(request)) from interruption
    return tuple(queue.failures.values())


def _describe_queue(queue: TrainingQueue, budget_seconds: float | None) -> list[str]:
    lines = [f"{len(queue.waiting)} of {len(queue.units)} folds to train; their output goes to {queue.run.logs}"]
    if budget_seconds is not None and queue.waiting:
        rounds = -(-len(queue.waiting) // len(queue.device_groups))
        lines.append(
            f"each of them gets {format_duration(budget_seconds)}, so all take up to "
            f"{format_duration(rounds * budget_seconds)}"
        )
    return [*lines, *describe_shared_devices([name for group in queue.device_groups for name in group])]
