"""Asks the programs of Slurm: what the queue and the accounting know of jobs, and what a partition allows."""

import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from autoseg.document import Part
from autoseg.errors import WorkerError

QUEUED: Final = frozenset(["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"])
RUNNING: Final = frozenset(["RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"])
UNKNOWN_JOBS: Final = "Invalid job id"  # of squeue, where it has forgotten all of them
SECONDS_FOR_ANSWER: Final = 60.0  # the controller of a large cluster may be busy
SECONDS_FOR_EXTRAS: Final = 10.0  # for an answer that is of use, but not needed
LONGEST_ERROR: Final = 500  # characters
TIME_LIMIT: Final = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")


class QueueEntry(Part):
    """A job as squeue shows it."""

    state: str
    reason: str
    nodes: str

    @property
    def is_over(self) -> bool:
        """Whether the job is neither queued nor running; one that lost its node may be queued again."""
        return self.state not in QUEUED | RUNNING


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


def query_accounting(job_ids: Collection[str]) -> Mapping[str, QueueEntry]:
    """Asks sacct for the ends of jobs; empty where a site keeps no accounts, as many do."""
    options = ["--noheader", "--allocations", "--parsable2", "--format=JobID,State,ExitCode,NodeList"]
    command = ["sacct", *options, f"--jobs={','.join(sorted(job_ids))}"]
    entries = [line.split("|") for line in _ask(command) if line.count("|") == 3]
    found = {
        job_id: QueueEntry(state=state.split()[0], reason=f"exit code {code}", nodes=nodes)
        for job_id, state, code, nodes in entries
        if state  # which says, for example: CANCELLED by 1000
    }
    return {job_id: entry for job_id, entry in found.items() if entry.is_over and job_id in job_ids}


def find_time_limit(partition: str | None) -> int | None:
    """Finds the time limit of a partition in minutes; None if it has none, or nothing is known of it.

    Args:
        partition: Name, or several of them with commas between; None: that which sinfo marks as the usual one.
    """
    rows = dict(line.strip().split("|", 1) for line in _ask(["sinfo", "-h", "-o", "%P|%l"]) if "|" in line)
    wanted = None if partition is None else partition.split(",")
    limits = [
        _parse_minutes(text)
        for name, text in rows.items()
        if (name.endswith("*") if wanted is None else name.rstrip("*") in wanted)
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def _parse_minutes(text: str) -> int | None:
    """Parses a time such as 2-00:00:00 or 30:00; None for infinite."""
    match = TIME_LIMIT.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return max(1, (days * 24 + hours) * 60 + minutes)


def _ask(command: Sequence[str]) -> list[str]:
    """Returns the lines that a program answers; none if it is missing or fails."""
    try:
        return run_slurm(command, seconds=SECONDS_FOR_EXTRAS).splitlines()
    except WorkerError:
        return []


def run_slurm(command: Sequence[str], *, seconds: float = SECONDS_FOR_ANSWER) -> str:
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
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError as error:
        msg = f"there is no {command[0]} on this computer; repeat the command on a node where Slurm is installed"
        raise WorkerError(msg) from error
    except subprocess.TimeoutExpired as error:
        msg = f"{command[0]} did not answer for {seconds:.0f} s; look at the controller of Slurm (sinfo)"
        raise WorkerError(msg) from error
    if done.returncode != 0:
        msg = f"{' '.join(command[:2])} failed: {done.stderr.strip()[-LONGEST_ERROR:]}"
        raise WorkerError(msg)
    return done.stdout
