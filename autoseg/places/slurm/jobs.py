"""Remembers which jobs were submitted for a run, and finds their states from squeue and from their own marks.

A mark is a small file that a job writes itself: that it runs, that it was asked to end, how it ended. So no accounting
is needed, and what squeue no longer knows is told apart from what never ended.
"""

import re
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import DocumentError, WorkerError
from autoseg.places.place import FAILURES, States, TaskPhase, TaskState

QUEUED: Final = frozenset(["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"])
RUNNING: Final = frozenset(["RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"])
NEVER_SATISFIED: Final = "DependencyNeverSatisfied"
UNKNOWN_JOBS: Final = "Invalid job id"  # of squeue, where it has forgotten all of them
SECONDS_FOR_ANSWER: Final = 60.0  # the controller of a large cluster may be busy
LONGEST_ERROR: Final = 500  # characters
ACTIVE: Final = frozenset[TaskPhase](["queued", "running"])


class JobRecord(Part):
    """A job that was submitted for a task.

    Attributes:
        task: Name of the task.
        job_id: Identifier in Slurm; with an underscore for a task of an array.
        needs: Names of the tasks that must succeed first.
        command: Command of the task; empty in lists of earlier versions, which did not record it.
    """

    task: str
    job_id: str
    needs: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


class JobList(Document):
    """The last job of every task of a run."""

    schema_version: Literal[1] = 1
    jobs: tuple[JobRecord, ...] = ()


class JobMark(Document):
    """What a job tells of itself.

    Attributes:
        phase: "saved" means that it was asked to end, and has ended its work.
        node: Computer on which it runs.
        restarts: Number of times that it was queued again.
        reason: Reason of a failure.
    """

    schema_version: Literal[1] = 1
    job_id: str
    phase: Literal["running", "saved", "finished", "failed"]
    node: str
    restarts: int = 0
    reason: str | None = None


class QueueEntry(Part):
    """A job as squeue shows it."""

    state: str
    reason: str
    nodes: str


def find_jobs_folder(run_root: Path) -> Path:
    """Returns the folder of a run for its jobs on a cluster."""
    return run_root / "jobs"


def find_mark(folder: Path, task: str) -> Path:
    """Returns the file in which the job of a task writes its mark."""
    return folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', task)}.json"


def read_jobs(folder: Path) -> tuple[JobRecord, ...]:
    """Reads the jobs that were submitted; empty if there are none.

    Raises:
        DocumentError: The list is damaged.
    """
    path = folder / "submitted.json"
    return read_document(path, JobList).jobs if path.is_file() else ()


def add_jobs(folder: Path, jobs: Sequence[JobRecord]) -> None:
    """Adds jobs to the list; earlier ones of the same tasks are dropped."""
    names = {job.task for job in jobs}
    kept = [job for job in read_jobs(folder) if job.task not in names]
    write_document(folder / "submitted.json", JobList(jobs=(*kept, *jobs)))


def read_task_states(folder: Path) -> States:
    """Finds the state of every task that was submitted.

    Raises:
        WorkerError: Slurm cannot be asked.
        DocumentError: The list of jobs is damaged.
    """
    jobs = read_jobs(folder)
    marks = {job.task: read_mark(folder, job) for job in jobs}
    asked = [job.job_id for job in jobs if not _is_over(marks[job.task])]
    queue = query_queue(asked) if asked else {}
    states: dict[str, TaskState] = {}
    for job in jobs:
        failed = [name for name in job.needs if name in states and states[name].phase in FAILURES]
        states[job.task] = find_state(job, queue.get(job.job_id), marks[job.task], failed=failed)
    return states


def read_mark(folder: Path, job: JobRecord) -> JobMark | None:
    """Reads the mark of a job; None if it has written none."""
    try:
        mark = read_document(find_mark(folder, job.task), JobMark)
    except DocumentError:
        return None
    return mark if mark.job_id == job.job_id else None


def query_queue(job_ids: Collection[str]) -> Mapping[str, QueueEntry]:
    """Asks squeue for jobs, those included that it remembers after their end; what it does not know is missing.

    Raises:
        WorkerError: It does not answer.
    """
    roots = sorted({job_id.partition("_")[0] for job_id in job_ids}, key=int)
    command = ["squeue", "--array", "--noheader", "--states=all", "--format=%i|%T|%N|%r", f"--jobs={','.join(roots)}"]
    try:
        lines = run_slurm(command).splitlines()
    except WorkerError as error:
        if UNKNOWN_JOBS in str(error):
            return {}
        raise
    return dict(_parse_line(line) for line in lines if line.count("|") >= 3)


def _parse_line(line: str) -> tuple[str, QueueEntry]:
    job_id, state, nodes, reason = line.strip().split("|", 3)
    return job_id, QueueEntry(state=state, reason=reason, nodes=nodes)


def find_state(
    job: JobRecord, entry: QueueEntry | None, mark: JobMark | None, *, failed: Sequence[str] = ()
) -> TaskState:
    """Finds the state of a task from what Slurm and the job itself say of it.

    Args:
        job: Last job of the task.
        entry: The job as squeue shows it; None if squeue does not know it.
        mark: Mark of the job, if it has written one.
        failed: Tasks that it needs and that did not succeed.
    """
    if mark is not None and mark.phase in {"finished", "failed"}:
        return TaskState(phase=mark.phase, where=mark.node, reason=mark.reason)
    if failed or (entry is not None and entry.reason == NEVER_SATISFIED):
        return TaskState(phase="failed", reason=f"it needs {', '.join(failed) or 'another task'}, which failed")
    if entry is not None and entry.state in QUEUED:
        again = "" if mark is None else f" after {mark.restarts + 1} starts"
        return TaskState(phase="queued", reason=f"job {job.job_id} waits{again} ({entry.reason})")
    if entry is not None and entry.state in RUNNING:
        return TaskState(phase="running", where=entry.nodes)
    return _find_end(job, entry, mark)


def _find_end(job: JobRecord, entry: QueueEntry | None, mark: JobMark | None) -> TaskState:
    """Finds the state of a task whose job has ended without saying so."""
    where = mark.node if mark is not None else None
    if entry is not None and entry.state == "COMPLETED":
        return TaskState(phase="finished", where=where)
    told = "Slurm no longer knows it" if entry is None else f"Slurm: {entry.state}, {entry.reason}"
    if entry is not None and entry.state == "CANCELLED":
        return TaskState(phase="stopped", where=where, reason=f"job {job.job_id} was cancelled")
    if mark is not None and mark.phase == "saved":
        return TaskState(phase="stopped", where=where, reason=f"job {job.job_id} was asked to end, and saved ({told})")
    on = "" if mark is None else f" on {mark.node}"
    return TaskState(phase="lost", where=where, reason=f"job {job.job_id} ended without a word{on} ({told})")


def cancel_jobs(folder: Path, *, tasks: Iterable[str] | None = None) -> tuple[JobRecord, ...]:
    """Cancels the jobs that are queued or running; returns them.

    Args:
        folder: Folder of the run for its jobs.
        tasks: Names of tasks; None for all.

    Raises:
        WorkerError: Slurm does not answer, or refuses.
    """
    states = read_task_states(folder)
    wanted = None if tasks is None else set(tasks)
    active = [job for job in read_jobs(folder) if states[job.task].phase in ACTIVE]
    chosen = tuple(job for job in active if wanted is None or job.task in wanted)
    if chosen:
        run_slurm(["scancel", *(job.job_id for job in chosen)])
    return chosen


def _is_over(mark: JobMark | None) -> bool:
    return mark is not None and mark.phase in {"finished", "failed"}


def run_slurm(command: Sequence[str]) -> str:
    """Runs a command of Slurm and returns its output.

    Raises:
        WorkerError: It is not installed, does not answer, or fails.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS_FOR_ANSWER,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError as error:
        msg = f"there is no {command[0]} on this computer; repeat the command on a node where Slurm is installed"
        raise WorkerError(msg) from error
    except subprocess.TimeoutExpired as error:
        msg = f"{command[0]} did not answer for {SECONDS_FOR_ANSWER:.0f} s; look at the controller of Slurm (sinfo)"
        raise WorkerError(msg) from error
    if done.returncode != 0:
        msg = f"{' '.join(command[:2])} failed: {done.stderr.strip()[-LONGEST_ERROR:]}"
        raise WorkerError(msg)
    return done.stdout
