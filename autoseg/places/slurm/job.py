"""Runs in a job of Slurm: starts the command, and lets it save before the job ends and is queued again."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoseg.document import write_document
from autoseg.places.place import Task
from autoseg.places.slurm.jobs import OUT_OF_MEMORY, JobMark, advise
from autoseg.processes.child_process import Child, start_child, stop_children

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

SECONDS_BETWEEN_LOOKS: Final = 0.5
KILLED: Final = signal.SIGKILL.name  # in the reason of a failure; Slurm kills what takes more RAM than it asked for
SECONDS_TO_REQUEUE: Final = 10.0  # of the time before the limit
SECONDS_TO_BE_KILLED: Final = 600.0
STOPPED_CODES: Final = frozenset([128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM])
# All processes of a step receive the warning before the limit, by which only this one knows what to do.
IGNORE_WARNING: Final = 'trap "" USR2; exec'
PYTHON_OF_CONTAINER: Final = "python3"
THREADS: Final = "OMP_NUM_THREADS"
FIRST_PORT: Final = 20_000
PORTS: Final = 20_000
MOST_RESTARTS: Final = 3
# A node may load its libraries from a slow network drive while another one waits.
RENDEZVOUS: Final = "timeout=900,join_timeout=900,read_timeout=120"
RENDEZVOUS_ENVIRONMENT: Final = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # without it, restarts may hang


@dataclass(slots=True, kw_only=True)
class JobCommand:
    """A task in a job; submitit pickles it, calls it, and calls `checkpoint` before the time limit or a pre-emption.

    Attributes:
        task: The task.
        mark: File for the mark of the job.
        processes: Number of processes on each computer.
        seconds_to_save: Time from the warning to the end.
        child: The running command.
        container: Command of the shell that runs another one in a container. This process stays outside, where the
            programs of Slurm are, which queue the job again.
    """

    task: Task
    mark: Path
    processes: int = 1
    seconds_to_save: int = 120
    child: Child | None = None
    container: str | None = None

    def __call__(self) -> None:
        """Runs the command to its end.

        Raises:
            SystemExit: It failed, or was asked to end.
        """
        self._write_mark("running")
        with _termination_noted() as noted:
            self.child = start_child(
                ["sh", "-c", f'{IGNORE_WARNING} {self.container or ""} "$@"', "sh", *self.build_command()],
                log=self.task.find_log(int(os.environ.get("SLURM_NODEID", "0"))),
                environment=self._build_environment(),
                is_continued=count_restarts() > 0,
            )
            code = _wait_for(self.child)
        if code in STOPPED_CODES or (code != 0 and noted):
            self._write_mark("saved", reason=self._name_other_logs())
            time.sleep(SECONDS_TO_BE_KILLED)  # whoever asked decides whether the job is queued again
            sys.exit(1)
        if code != 0:
            reason = self.child.describe_end()
            self._write_mark("failed", reason=f"{reason}{advise(OUT_OF_MEMORY) if KILLED in reason else ''}")
            sys.exit(1)
        self._write_mark("finished")

    def checkpoint(self) -> "DelayedSubmission":
        """Stops the command, which saves its state; returns what is run when the job has been queued again."""
        from submitit.helpers import DelayedSubmission

        if self.child is not None:
            stop_children([self.child], seconds=max(1.0, self.seconds_to_save - SECONDS_TO_REQUEUE))
        return DelayedSubmission(replace(self, child=None))

    @property
    def is_distributed(self) -> bool:
        """Whether several processes work together."""
        return self.task.resources.nodes > 1 or self.processes > 1

    def build_command(self) -> list[str]:
        """Builds the command for this computer: the task itself, or torchrun that starts it in every process."""
        python = sys.executable if self.container is None else PYTHON_OF_CONTAINER
        if not self.is_distributed:
            return [python, *self.task.command[1:]]
        return [python, "-m", "torch.distributed.run", *self._list_rendezvous(), *self.task.command[1:]]

    def _build_environment(self) -> dict[str, str]:
        """Builds environment variables: as many threads as the job has cores, on whatever node it continues."""
        cores = int(os.environ.get("SLURM_CPUS_PER_TASK", "0")) // self.processes
        threads = {THREADS: str(cores)} if cores and THREADS not in os.environ else {}
        return threads | (RENDEZVOUS_ENVIRONMENT if self.is_distributed else {})

    def _list_rendezvous(self) -> list[str]:
        job = os.environ.get("SLURM_JOB_ID", "0")
        first = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
        return [
            f"--nnodes={self.task.resources.nodes}",
            f"--nproc-per-node={self.processes}",
            f"--max-restarts={MOST_RESTARTS}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={first}:{FIRST_PORT + int(job) % PORTS}",
            f"--rdzv-id={job}.{count_restarts()}",
            f"--rdzv-conf={RENDEZVOUS}",
        ]

    def _name_other_logs(self) -> str | None:
        """Names the logs of the other computers: Slurm ends a process also where one of them has failed."""
        log = self.task.log
        return f"logs: {log.with_name(f'{log.stem}_rank_*{log.suffix}')}" if self.task.resources.nodes > 1 else None

    def _write_mark(self, phase: str, reason: str | None = None) -> None:
        """Writes the mark, from the first computer alone."""
        if os.environ.get("SLURM_PROCID", "0") != "0":
            return
        mark = JobMark.model_validate(
            {
                "job_id": find_job_id(),
                "phase": phase,
                "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
                "restarts": count_restarts(),
                "reason": reason,
            }
        )
        write_document(self.mark, mark)


def find_job_id() -> str:
    """Returns the identifier of this job, as squeue shows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "0")


def count_restarts() -> int:
    """Counts how often this job was queued again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _wait_for(child: Child) -> int:
    while True:
        with _warning_postponed():  # `checkpoint` looks at the child, too
            code = child.poll()
        if code is not None:
            return code
        time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def _termination_noted() -> Iterator[list[int]]:
    """Yields a list to which SIGTERM is added; this process continues, to see how its command ends.

    Slurm sends it to all processes of a step. The exit code of torchrun does not tell that it got one.
    """
    noted: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _warning_postponed() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
