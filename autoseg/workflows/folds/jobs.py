"""Status and cancellation of trainings that run as jobs of a cluster."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import WorkerError
from autoseg.places.place import States, TaskState
from autoseg.places.slurm.jobs import cancel_jobs, find_jobs_folder, read_task_states
from autoseg.run_folder import RunFolder, open_run
from autoseg.workflows.folds.status import FoldStatus, apply_task_state, read_run_status, read_statuses


def read_watched_status(run: RunFolder) -> tuple[tuple[FoldStatus, ...], tuple[str, ...]]:
    """Reads the status of every fold, with what the cluster knows of its job, and notes on other jobs.

    Raises:
        DocumentError: Its plan, splits or list of jobs cannot be read.
    """
    statuses = read_statuses(run)
    try:
        states = read_task_states(find_jobs_folder(run.root))
    except WorkerError as error:
        return statuses, (f"jobs of this run cannot be shown: {error}",)
    names = {name_task(status) for status in statuses}
    notes = tuple(_describe(name, state) for name, state in states.items() if name not in names)
    return tuple(_add_state(status, states) for status in statuses), notes


def has_jobs(run: RunFolder) -> bool:
    """Whether jobs were ever submitted for a run."""
    return find_jobs_folder(run.root).is_dir()


def cancel_run_jobs(
    run_root: Path, *, configurations: Sequence[str] = (), folds: Sequence[str] = ()
) -> tuple[str, ...]:
    """Cancels the jobs of a run that are queued or running; returns one line for each.

    Args:
        run_root: Run folder.
        configurations: Only jobs of these configurations; empty for all.
        folds: Only jobs of these folds; empty for all.

    Raises:
        RunError: There is no run.
        WorkerError: The cluster does not answer, or refuses.
    """
    open_run(run_root)
    chosen = None
    if configurations or folds:
        chosen = [
            name_task(status)
            for status in read_run_status(run_root)
            if status.configuration in (configurations or (status.configuration,))
            and status.fold in (folds or (status.fold,))
        ]
    jobs = cancel_jobs(find_jobs_folder(run_root), tasks=chosen)
    return tuple(f"{job.task}: job {job.job_id} is cancelled" for job in jobs)


def name_task(status: FoldStatus) -> str:
    """Returns the name of the task that trains a fold."""
    return f"{status.configuration}, fold {status.fold}"


def _add_state(status: FoldStatus, states: States) -> FoldStatus:
    state = states.get(name_task(status))
    if state is None or (state.phase in {"failed", "stopped", "lost"} and _goes_on(status)):
        return status  # whatever became of that job, the fold was trained later, or is being trained
    return apply_task_state(status, state)


def _goes_on(status: FoldStatus) -> bool:
    return status.is_running or status.state == "finished"


def _describe(name: str, state: TaskState) -> str:
    where = f" on {state.where}" if state.where and state.phase == "running" else ""
    return f"{name}: {state.phase}{where}{f': {state.reason}' if state.reason else ''}"
