"""Remembers which jobs were submitted for a run, and finds their states from squeue and from their own marks.

A mark is a small file that a job writes itself: that it runs, that it was asked to end, how it ended. So no accounting
is needed, and what squeue no longer knows is told apart from what never ended.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import DocumentError, RunError
from autoseg.files.temporary_files import MARKER
from autoseg.places.place import FAILURES, States, TaskPhase, TaskState
from autoseg.places.slurm.programs import (
    QUEUED,
    RUNNING,
    QueueEntry,
    query_accounting,
    query_queue,
    run_slurm,
)

NEVER_SATISFIED: Final = "DependencyNeverSatisfied"
CANCELLED: Final = "CANCELLED"
FAILED: Final = "FAILED"  # a process of the job has ended with an error by itself
OUT_OF_MEMORY: Final = "OUT_OF_MEMORY"
ACTIVE: Final = frozenset[TaskPhase](["queued", "running"])
OTHERWISE: Final = "end it (autoseg cancel), and repeat the command with"
OF_ACCOUNT: Final = f"a limit of the account; if it stays so, {OTHERWISE} another --slurm account=, or less of it"
ADVICE: Final[Mapping[str, str]] = {
    OUT_OF_MEMORY: "repeat the command with more: --slurm memory_gb=N",
    "TIMEOUT": "repeat the command with more: --slurm time_minutes=N, or an earlier warning, --slurm signal_seconds=N",
    "PartitionTimeLimit": f"the partition allows less time; {OTHERWISE} --slurm time_minutes=N, or a shorter --budget",
    "AssocGrp": OF_ACCOUNT,
    "AssocMax": OF_ACCOUNT,
    "BadConstraints": f"no node has what it asks for; {OTHERWISE} other ones: --slurm gres=, constraint=, memory_gb=",
}
"""Remedies for states and reasons that begin with these words."""


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
        reason: Reason of a failure; of a job on several computers that was asked to end, where to find one of theirs.
    """

    schema_version: Literal[1] = 1
    job_id: str
    phase: Literal["running", "saved", "finished", "failed"]
    node: str
    restarts: int = 0
    reason: str | None = None


class JobEnd(Document):
    """The end of a job as Slurm told it, before it forgot the job."""

    schema_version: Literal[1] = 1
    job_id: str
    entry: QueueEntry


def find_jobs_folder(run_root: Path) -> Path:
    """Returns the folder of a run for its jobs on a cluster."""
    return run_root / "jobs"


def list_case_folders(run_root: Path) -> tuple[Path, ...]:
    """Lists the folders of commands that wait for the jobs of their cases; each is removed with its command."""
    return tuple(sorted(run_root.glob(f".{find_jobs_folder(run_root).name}{MARKER}*")))


def find_mark(folder: Path, task: str) -> Path:
    """Returns the file in which the job of a task writes its mark."""
    return folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', task)}.json"


def find_end(folder: Path, task: str) -> Path:
    """Returns the file that tells how the job of a task ended."""
    return find_mark(folder, task).with_suffix(".end.json")


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
    queue = _query_entries(folder, [job for job in jobs if not _is_over(marks[job.task])])
    states: dict[str, TaskState] = {}
    for job in jobs:
        failed = [name for name in job.needs if name in states and states[name].phase in FAILURES]
        states[job.task] = find_state(job, queue.get(job.job_id), marks[job.task], failed=failed)
    return states


def _query_entries(folder: Path, jobs: Sequence[JobRecord]) -> Mapping[str, QueueEntry]:
    """Asks for jobs, and remembers the ends that Slurm tells: it forgets them, usually after five minutes.

    Raises:
        WorkerError: squeue does not answer.
    """
    shown = dict(query_queue([job.job_id for job in jobs])) if jobs else {}
    ends = {job.job_id: end for job in jobs if (end := _read_end(folder, job)) is not None}
    unknown = [job.job_id for job in jobs if job.job_id not in shown and job.job_id not in ends]
    shown |= query_accounting(unknown) if unknown else {}
    for job in jobs:
        entry, known = shown.get(job.job_id), ends.get(job.job_id)
        if entry is not None and entry.is_over and entry != known:
            _write_end(folder, job, entry)
        elif entry is not None and not entry.is_over and known is not None and known.state != CANCELLED:
            with suppress(OSError):
                find_end(folder, job.task).unlink(missing_ok=True)  # it was queued again
    return ends | shown


def _read_end(folder: Path, job: JobRecord) -> QueueEntry | None:
    try:
        end = read_document(find_end(folder, job.task), JobEnd)
    except DocumentError:
        return None
    return end.entry if end.job_id == job.job_id else None


def _write_end(folder: Path, job: JobRecord, entry: QueueEntry) -> None:
    with suppress(RunError):  # others may look at a run that they cannot write
        write_document(find_end(folder, job.task), JobEnd(job_id=job.job_id, entry=entry))


def read_mark(folder: Path, job: JobRecord) -> JobMark | None:
    """Reads the mark of a job; None if it has written none."""
    try:
        mark = read_document(find_mark(folder, job.task), JobMark)
    except DocumentError:
        return None
    return mark if mark.job_id == job.job_id else None


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
        return TaskState(phase="queued", reason=f"job {job.job_id} waits{again} ({entry.reason}){advise(entry.reason)}")
    if entry is not None and entry.state in RUNNING:
        return TaskState(phase="running", where=entry.nodes)
    return _find_end(job, entry, mark)


def advise(word: str) -> str:
    """Says what to do about a state of Slurm, or a reason to wait; empty for most."""
    return next((f"; {advice}" for beginning, advice in ADVICE.items() if word.startswith(beginning)), "")


def _find_end(job: JobRecord, entry: QueueEntry | None, mark: JobMark | None) -> TaskState:
    """Finds the state of a task whose job has ended without saying so."""
    where = mark.node if mark is not None else None
    if entry is not None and entry.state == "COMPLETED":
        return TaskState(phase="finished", where=where)
    told = "Slurm no longer knows it" if entry is None else f"Slurm: {entry.state}, {entry.reason}"
    if entry is not None and entry.state == CANCELLED:
        return TaskState(phase="stopped", where=where, reason=f"job {job.job_id} was cancelled")
    if entry is not None and entry.state == FAILED and mark is not None and mark.phase == "saved" and mark.reason:
        reason = f"job {job.job_id} failed on another of its computers ({told}); {mark.reason}"
        return TaskState(phase="failed", where=where, reason=reason)
    if mark is not None and mark.phase == "saved":
        return TaskState(phase="stopped", where=where, reason=f"job {job.job_id} was asked to end, and saved ({told})")
    on = "" if mark is None else f" on {mark.node}"
    advice = "" if entry is None else advise(entry.state)
    return TaskState(phase="lost", where=where, reason=f"job {job.job_id} ended without a word{on} ({told}){advice}")


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
    for job in chosen:
        _write_end(folder, job, QueueEntry(state=CANCELLED, reason="autoseg cancel", nodes=""))
    return chosen


def _is_over(mark: JobMark | None) -> bool:
    return mark is not None and mark.phase in {"finished", "failed"}
