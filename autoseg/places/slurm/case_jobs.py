"""Divides the cases of a command among jobs of Slurm, and collects what becomes of them from files.

The folder of the command holds the work, which all jobs read, and for each case that has ended a file with its result.
So a job that is queued again continues where it was stopped.
"""

import logging
import os
import pickle
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from autoseg.errors import AutosegError, Problem, WorkerError
from autoseg.files.temporary_files import name_temporary
from autoseg.places.case_worker import Caller, Refusal, find_present_folder, keep_mark, run_case
from autoseg.places.place import Resources, States, Task, TaskState
from autoseg.places.slurm.jobs import cancel_jobs, find_jobs_folder
from autoseg.processes.case_pool import (
    WORKER_BASE_BYTES,
    CaseEvent,
    CaseSize,
    Failure,
    compute_worker_count,
    find_largest,
    run_over_cases,
)
from autoseg.processes.child_process import ERROR_PREFIX
from autoseg.processes.library_output import silence_libraries
from autoseg.processes.parent_watch import stop_with_parent
from autoseg.processes.progress import SilentProgress
from autoseg.processes.signals import StopRequest, find_signal
from autoseg.run_folder import make_folder, write_atomically

WORK_NAME: Final = "work.pickle"
RESULT_ENDING: Final = ".result"
RESULT_NAME: Final = re.compile(rf"\d+\{RESULT_ENDING}")
PROGRAM: Final = f"from {__name__} import run_command; run_command()"
UNKNOWN: Final = TaskState(phase="lost", reason="Slurm was not asked to run it")
CORES: Final = 4  # of a job, unless the site says otherwise
NETWORK_BYTES: Final = 16 * 2**30  # guess: networks, an image of 512 x 512 x 800 voxels, its windows and logits
ANY_GPU: Final = 1  # byte of its memory: windows are small, and batches fit themselves to the GPU
SECONDS_BETWEEN_LOOKS: Final = 1.0
SECONDS_FOR_FILES: Final = 60.0  # a network drive may show a file so much later

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseWork:
    """Work on all cases of a command, as its jobs read it.

    Attributes:
        work: Function of the job of a case.
        jobs: Names and jobs of the cases.
        caller: Description of the process that has submitted them.
        runs_networks: Whether the work uses a GPU where there is one, or else several threads.
        sizes: Sizes of cases by name.
        uses_gpu: Whether networks run on a GPU.
    """

    work: Callable[[Any], object]
    jobs: Sequence[tuple[str, Any]]
    caller: Caller
    runs_networks: bool
    sizes: Mapping[str, CaseSize]
    uses_gpu: bool = True

    def find_resources(self) -> Resources:
        """Returns what a job needs."""
        return find_resources(self.sizes, runs_networks=self.runs_networks, uses_gpu=self.uses_gpu)

    def count_workers(self, cases: int) -> int:
        """Counts the processes of a job that has so many cases, on the computer on which it runs."""
        if self.runs_networks:
            return 1
        largest = find_largest(self.sizes.values())
        return compute_worker_count(requested=None, case_count=cases, bytes_per_case=largest)


def find_resources(sizes: Mapping[str, CaseSize], *, runs_networks: bool, uses_gpu: bool) -> Resources:
    """Returns what a job needs: a GPU or none, and memory for as many cases at a time as it has cores."""
    largest = find_largest(sizes.values())
    if runs_networks:
        gpu_bytes = ANY_GPU if uses_gpu else 0
        return Resources(gpu_bytes=gpu_bytes, cores=CORES, ram_bytes=largest or NETWORK_BYTES)
    return Resources(cores=CORES, ram_bytes=CORES * (largest + WORKER_BASE_BYTES) if largest else 0)


@contextmanager
def open_case_folder(run_root: Path) -> Iterator[Path]:
    """Yields a folder for the jobs of one command, in the run or the nearest folder above it that exists.

    Raises:
        RunError: The folder cannot be written.
    """
    folder = make_folder(name_temporary(find_jobs_folder(find_present_folder(run_root))))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build_tasks(folder: Path, work: CaseWork, *, label: str, count: int) -> tuple[Task, ...]:
    """Writes the work into a folder and builds the tasks of `count` jobs, each for every `count`-th case.

    Raises:
        RunError: The folder cannot be written.
    """
    with write_atomically(folder / WORK_NAME) as temporary:
        temporary.write_bytes(pickle.dumps(work))
    return list_tasks(folder, work.find_resources(), label=label, count=count)


def list_tasks(folder: Path, resources: Resources, *, label: str, count: int) -> tuple[Task, ...]:
    """Lists the tasks of `count` jobs, which find the work in a folder."""
    return tuple(
        Task(
            name=f"{label}, part {part + 1} of {count}",
            command=(sys.executable, "-c", PROGRAM, str(folder), str(part), str(count)),
            log=folder / f"part_{part + 1}.log",
            resources=resources,
        )
        for part in range(count)
    )


def iterate_cases(
    folder: Path, given: CaseWork, tasks: Sequence[Task], steps: Iterable[States]
) -> Iterator[CaseEvent[Any]]:
    """Yields the end of every case; jobs that still run when this is closed early are cancelled.

    Args:
        folder: Folder of the command.
        given: The work on the cases.
        tasks: The tasks, in the order of their parts.
        steps: States of the tasks, now and then, until all have ended.

    Raises:
        WorkerError: A job cannot work on the cases, or Slurm does not answer.
    """
    left, states = set(range(len(given.jobs))), dict[str, TaskState]()
    try:
        for step in steps:
            states = dict(step)
            os.utime(folder)  # otherwise another computer would take it for a leftover after a day in the queue
            keep_mark(given.caller)
            yield from _collect(folder, left)
    finally:
        _cancel(folder)
    ends = [states.get(task.name, UNKNOWN) for task in tasks]
    deadline = time.monotonic() + SECONDS_FOR_FILES
    while time.monotonic() < deadline and any(ends[index % len(ends)].phase == "finished" for index in left):
        time.sleep(SECONDS_BETWEEN_LOOKS)
        yield from _collect(folder, left)
    for index in sorted(left):
        name, _ = given.jobs[index]
        yield CaseEvent(index, _explain_missing(name, tasks[index % len(ends)], ends[index % len(ends)]))


def _cancel(folder: Path) -> None:
    """Cancels jobs; those of a Slurm that does not answer end by themselves, once the folder is removed."""
    try:
        cancel_jobs(folder)
    except WorkerError as error:
        logger.warning("jobs could not be cancelled, and end after their present case: %s", error)


def run_part(folder: Path, part: int, count: int) -> None:
    """Works on every `count`-th case, from the case `part` on, that has no result yet.

    Raises:
        AutosegError: All cases need something that is out of reach.
        WorkerError: The command that has submitted the job has ended meanwhile; no further case was begun.
    """
    given: CaseWork = pickle.loads((folder / WORK_NAME).read_bytes())
    indices = range(part, len(given.jobs), count)
    left = [index for index in indices if not _find_result(folder, index).exists()]
    work = partial(_finish_case, folder=folder, work=given.work, caller=given.caller, runs_networks=given.runs_networks)
    outcome = run_over_cases(
        work,
        [(str(index), (index, *given.jobs[index])) for index in left],
        workers=given.count_workers(len(left)),
        label="",
        progress=SilentProgress(),
        sizes={str(index): given.sizes[name] for index in left if (name := given.jobs[index][0]) in given.sizes},
    )
    if not _is_wanted(folder):
        msg = f"{folder} is gone: the command that has submitted this job has ended"
        raise WorkerError(msg)
    for failure in outcome.failures:  # its process was killed
        index = int(failure.case)
        name = given.jobs[index][0]
        problems = tuple(replace(problem, cases=(name,)) for problem in failure.problems)
        _write_result(folder, index, replace(failure, case=name, problems=problems))


def run_command() -> None:
    """Runs the command of a job: FOLDER PART COUNT.

    Raises:
        SystemExit: The job was asked to end, or what all cases need is out of reach.
    """
    folder, part, count = sys.argv[1:]
    silence_libraries()
    stop_with_parent()
    try:
        with StopRequest().handle_signals():
            run_part(Path(folder), int(part), int(count))
    except KeyboardInterrupt as interruption:
        sys.exit(128 + find_signal(interruption))
    except AutosegError as error:
        sys.exit(f"{ERROR_PREFIX}{error}")


def _finish_case(
    given: tuple[int, str, Any], *, folder: Path, work: Callable[[Any], object], caller: Caller, runs_networks: bool
) -> None:
    index, name, job = given
    if _is_wanted(folder):
        outcome = run_case(work, name, job, caller, runs_networks=runs_networks)
        if _is_wanted(folder):
            _write_result(folder, index, outcome)


def _is_wanted(folder: Path) -> bool:
    """Returns whether the command still waits, which removes the folder at its end, as others do after its death."""
    return (folder / WORK_NAME).exists()


def _find_result(folder: Path, index: int) -> Path:
    return folder / f"{index}{RESULT_ENDING}"


def _write_result(folder: Path, index: int, outcome: object) -> None:
    with write_atomically(_find_result(folder, index)) as temporary:
        temporary.write_bytes(pickle.dumps(outcome))


def _collect(folder: Path, left: set[int]) -> Iterator[CaseEvent[Any]]:
    """Yields the cases that have a result since the last time, and removes them from those that are left.

    Raises:
        WorkerError: A job refuses to work on the cases.
    """
    with os.scandir(folder) as entries:  # which also has a network drive show the names that there are now
        found = {int(entry.name[: -len(RESULT_ENDING)]) for entry in entries if RESULT_NAME.fullmatch(entry.name)}
    for index in sorted(found & left):
        outcome = pickle.loads(_find_result(folder, index).read_bytes())
        if isinstance(outcome, Refusal):
            raise WorkerError(outcome.describe())
        left.remove(index)
        yield CaseEvent(index, outcome)


def _explain_missing(name: str, task: Task, end: TaskState) -> Failure:
    reason = end.reason or "it has written no result"
    text = (
        f"its job ({task.name}) ended as {end.phase}: {reason}; repeat the command, with run and images "
        f"where all computers of the cluster see them"
    )
    return Failure(case=name, problems=(Problem(text=text, cases=(name,)),))
