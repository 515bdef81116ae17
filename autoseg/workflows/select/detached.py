"""Selects models in a job of its own, at a place whose tasks continue when the command ends."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from autoseg.document import read_document
from autoseg.errors import OptionError, Stopped, WorkerError, quote_path
from autoseg.places.place import Place, States, Task
from autoseg.plan.document import Plan
from autoseg.processes.progress import Progress
from autoseg.remote.cache_folder import is_in_cache
from autoseg.run_folder import RunFolder, open_run
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.select.selection_document import Selection
from autoseg.workflows.train.detached import build_selection_task, check_device_kind, estimate_resources
from autoseg.workflows.train.request import TrainingRequest


def select_in_job(
    run_root: Path, request: SelectionRequest, place: Place, *, autoseg: Sequence[str] | None, progress: Progress
) -> Selection:
    """Selects models in a job and returns what it has written.

    Args:
        run_root: Run folder.
        request: Options of the selection.
        place: The place, which is detached.
        autoseg: The command that is `autoseg`; None: `python -m autoseg`.
        progress: Receives a note whenever the state of the job changes.

    Raises:
        OptionError: The place runs single cases alone, or the run is given by URL.
        WorkerError: The job failed or cannot be submitted.
        Stopped: After an interruption; the job continues.
    """
    task = build_task(run_root, request, place, autoseg=autoseg)
    run = RunFolder(run_root)
    state, told = None, ""
    try:
        with closing(place.run_tasks([task])) as steps:
            for states in steps:
                state = states.get(task.name)
                told = _tell(states, task, told, progress)
    except KeyboardInterrupt as interruption:
        msg = f"the job continues: `autoseg status {quote_path(run_root)}` shows it, and its output goes to {task.log}"
        raise Stopped(msg) from interruption
    if state is None or state.phase != "finished":
        msg = f"the job that selects models did not finish ({told or 'it is not known'}); its output is in {task.log}"
        raise WorkerError(msg)
    return read_document(run.selection, Selection)


def describe_selecting(
    run_root: Path, request: SelectionRequest, place: Place, *, autoseg: Sequence[str] | None
) -> str:
    """Describes what `select_in_job` would give to a place; nothing is changed.

    Raises:
        OptionError: As for `build_task`.
    """
    return place.describe_tasks([build_task(run_root, request, place, autoseg=autoseg)])


def build_task(run_root: Path, request: SelectionRequest, place: Place, *, autoseg: Sequence[str] | None) -> Task:
    """Builds the command, with the needs of the configuration that needs most.

    Raises:
        OptionError: The place has no jobs, the run is given by URL, so that the job would change a copy that nobody
            publishes, or the device is named by its number on this computer.
        RunError: There is no run.
    """
    if not place.is_detached:
        msg = "a selection is a job with --on slurm alone; leave out --on and --dry-run to select here"
        raise OptionError(msg)
    check_device_kind(request.device)
    run = open_run(run_root.resolve())
    if is_in_cache(run.root):
        msg = f"--on: a job needs a run in a folder that all nodes see, found {run.root}; copy it there"
        raise OptionError(msg)
    plan, training = read_document(run.plan, Plan), TrainingRequest(device=request.device, workers=0)
    names = [name for name in request.configurations or plan.configurations if name in plan.configurations]
    needs = [estimate_resources(run, plan, name, training) for name in names or plan.configurations]
    needed = max(needs, key=lambda one: one.ram_bytes)
    task = build_selection_task(run, needed, needs=(), options=request.list_options(), autoseg=autoseg)
    return replace(task, is_exact=True)


def _tell(states: States, task: Task, told: str, progress: Progress) -> str:
    """Notes the state if it is another one than before; returns it in words."""
    state = states.get(task.name)
    words = "" if state is None else ": ".join(filter(None, (state.phase, state.reason or state.where)))
    if words and words != told:
        progress.note(f"select, {words}")
    return words
