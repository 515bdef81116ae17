"""Status and cancellation of trainings that run as jobs of a cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from autoseg.document import suggest_key
from autoseg.errors import OptionError, WorkerError
from autoseg.places.place import FAILURES, States, TaskState
from autoseg.places.slurm.jobs import (
    cancel_jobs,
    find_jobs_folder,
    list_case_folders,
    read_jobs,
    read_task_states,
)
from autoseg.run_folder import ALL_CASES, RunFolder, open_run
from autoseg.workflows.folds.state import find_restart_mark, list_restart_marks
from autoseg.workflows.folds.status import FoldStatus, apply_task_state, read_run_status, read_statuses

FOLD_OF_TASK: Final = ", fold "


def read_watched_status(run: RunFolder) -> tuple[tuple[FoldStatus, ...], tuple[str, ...]]:
    """Reads the status of every fold, with what the cluster knows of its job, and notes on other jobs.

    Raises:
        DocumentError: Its plan, splits or list of jobs cannot be read.
    """
    statuses = read_statuses(run)
    try:
        states = read_task_states(find_jobs_folder(run.root))
        of_cases = [pair for folder in list_case_folders(run.root) for pair in read_task_states(folder).items()]
    except WorkerError as error:
        return statuses, (f"jobs of this run cannot be shown: {error}",)
    names = {name_task(status) for status in statuses}
    others = [(name, state) for name, state in states.items() if name not in names]
    notes = tuple(_describe(name, state) for name, state in [*others, *of_cases])
    return tuple(_add_state(run, status, states) for status in statuses), notes


def has_jobs(run: RunFolder) -> bool:
    """Whether jobs were ever submitted for folds of a run, or are for its cases now."""
    return find_jobs_folder(run.root).is_dir() or bool(list_case_folders(run.root))


def cancel_run_jobs(
    run_root: Path, *, configurations: Sequence[str] = (), folds: Sequence[str] = ()
) -> tuple[str, ...]:
    """Cancels the jobs of a run that are queued or running; returns one line for each.

    Trainings that a job was to begin again stay as they are, unless it has begun, also where it has failed.

    Those of commands that wait for their cases are cancelled, too, unless jobs are named.

    Args:
        run_root: Run folder.
        configurations: Only jobs of these configurations; empty for all.
        folds: Only jobs of these folds; empty for all.

    Raises:
        RunError: There is no run.
        OptionError: A configuration or fold does not exist.
        WorkerError: The cluster does not answer, or refuses.
    """
    folder = find_jobs_folder(open_run(run_root).root)
    chosen = None
    if configurations or folds:
        statuses = read_run_status(run_root)
        _check_names("--configuration", configurations, {status.configuration for status in statuses})
        _check_names("--fold", folds, {status.fold for status in statuses} | {ALL_CASES})
        tasks = [job.task for job in read_jobs(folder)]  # the fold "all" has no status before it has begun
        chosen = [task for task in tasks if _is_chosen(task, configurations, folds)]
    jobs = [*cancel_jobs(folder, tasks=chosen)]
    for other in list_case_folders(run_root) if chosen is None else ():
        jobs += cancel_jobs(other)
    lines = [f"{job.task}: job {job.job_id} is cancelled" for job in jobs]
    for configuration, fold, mark in list_restart_marks(RunFolder(run_root)):
        task = f"{configuration}{FOLD_OF_TASK}{fold}"
        if _is_chosen(task, configurations, folds):
            mark.unlink(missing_ok=True)
            if task not in {job.task for job in jobs}:
                lines.append(f"{task}: does not begin again")
    return tuple(lines)


def _check_names(option: str, given: Sequence[str], known: set[str]) -> None:
    """Checks names that an option gives.

    Raises:
        OptionError: One is unknown.
    """
    for name in given:
        if name not in known:
            choices = sorted(known)
            msg = f"{option}: this run has no {name!r}{suggest_key(name, choices)}; choose from: {', '.join(choices)}"
            raise OptionError(msg)


def _is_chosen(task: str, configurations: Sequence[str], folds: Sequence[str]) -> bool:
    configuration, is_fold, fold = task.partition(FOLD_OF_TASK)
    return bool(is_fold) and configuration in (configurations or (configuration,)) and fold in (folds or (fold,))


def name_task(status: FoldStatus) -> str:
    """Returns the name of the task that trains a fold."""
    return f"{status.configuration}{FOLD_OF_TASK}{status.fold}"


def _add_state(run: RunFolder, status: FoldStatus, states: States) -> FoldStatus:
    state = states.get(name_task(status))
    if state is None or (state.phase in FAILURES and _goes_on(run, status)):
        return status  # whatever became of that job, the fold was trained later, or is being trained
    return apply_task_state(status, state)


def _goes_on(run: RunFolder, status: FoldStatus) -> bool:
    is_to_restart = find_restart_mark(run.fold(status.configuration, status.fold)).exists()
    return status.is_running or (status.state == "finished" and not is_to_restart)


def _describe(name: str, state: TaskState) -> str:
    where = f" on {state.where}" if state.where and state.phase == "running" else ""
    return f"{name}: {state.phase}{where}{f': {state.reason}' if state.reason else ''}"
