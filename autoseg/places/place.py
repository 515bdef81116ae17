"""The contract of a place: where the cases and commands of a workflow run."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn, Protocol, TypeVar, runtime_checkable

from autoseg.errors import OptionError
from autoseg.processes.case_pool import CaseSize, PoolOutcome
from autoseg.processes.progress import Progress

Job = TypeVar("Job")
Result = TypeVar("Result")

TaskPhase = Literal["waiting", "queued", "running", "finished", "failed", "stopped", "lost"]
FAILURES: Final = frozenset[TaskPhase](["failed", "stopped", "lost"])
"""Phases of tasks that have ended without success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Needs of a task, which the computers that run it must meet.

    Attributes:
        gpu_bytes: Memory of each GPU; 0 for a task that uses none.
        cores: CPU cores of each process.
        ram_bytes: RAM of each process.
        seconds: Time until it has ended; None if that is not known.
        time_origin: Source of that time, in words; None where nobody would ask.
        may_be_cut: Whether a time limit may be shorter than that, as the task continues after it with what is left; a
            training with a budget would get the whole budget again.
        nodes: Number of computers.
        is_parallel: Whether processes work together on it, one for each GPU of each computer.
        most_processes: Number of parts into which such work can be divided; None for no limit.
    """

    gpu_bytes: int = 0
    cores: int = 1
    ram_bytes: int = 0
    seconds: float | None = None
    time_origin: str | None = None
    may_be_cut: bool = True
    nodes: int = 1
    is_parallel: bool = False
    most_processes: int | None = None

    def count_processes(self, gpus: int) -> int:
        """Counts the processes on each computer, where a task gets so many GPUs there."""
        return max(1, gpus) if self.is_parallel else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A command of autoseg that continues when it is repeated, or does nothing where it was finished.

    Attributes:
        name: Name for messages; no two tasks of a run have the same.
        command: The interpreter of Python and its arguments; those that choose a device are left to the place.
        log: File that receives its output.
        needs: Names of tasks that must succeed first.
        resources: Needs of the task; ignored by a place that is used by one person alone.
        is_exact: Whether what another command has submitted under this name stands for it only with the same options,
            because this command answers with the result.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    needs: tuple[str, ...] = ()
    resources: Resources = Resources()
    is_exact: bool = False

    def find_log(self, rank: int) -> Path:
        """Returns the log of one of several processes that work together; the first one has that of the task."""
        return self.log if rank == 0 else self.log.with_name(f"{self.log.stem}_rank_{rank}{self.log.suffix}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """State of a task.

    Attributes:
        phase: "waiting" tasks wait for others or for a free device of this computer, "queued" ones for a scheduler;
            "stopped" ones were ended by somebody, and "lost" ones have ended without a word.
        where: Devices or nodes on which it runs.
        reason: Reason why it failed, was lost, or is queued.
    """

    phase: TaskPhase
    where: str | None = None
    reason: str | None = None


States = Mapping[str, TaskState]
"""States of tasks by name."""


@runtime_checkable
class Place(Protocol):
    """Protocol of places, which are rows of the table `PLACES`.

    A workflow is given one and asks no further. What a place does not run, it refuses with an OptionError.
    """

    @property
    def is_detached(self) -> bool:
        """Whether tasks continue when the command that has started them ends."""
        ...

    def run_over_cases(
        self,
        work: Callable[[Job], Result],
        jobs: Sequence[tuple[str, Job]],
        *,
        workers: int,
        label: str,
        progress: Progress,
        sizes: Mapping[str, CaseSize] | None = None,
        collect: Callable[[int, Result], None] | None = None,
        runs_networks: bool = False,
        uses_gpu: bool = True,
    ) -> PoolOutcome[Result]:
        """Calls `work(job)` for every (case name, job); a case that fails stops no other.

        `work`, jobs and results are pickled. A case may be worked on twice, and the first result may be lost, so `work`
        writes its files whole or not at all, and returns something small, such as measurements or a path.

        Args:
            work: Function of a module, or a `functools.partial` of one.
            jobs: Cases with what `work` needs to know of each.
            workers: Number of processes on this computer; ignored by places that have workers of their own.
            label: Word for the work in the progress.
            progress: Receives the progress.
            sizes: Sizes of cases by name, for reports of lack of memory, and for what a scheduler is asked for.
            collect: Gets each result in this process as it comes, with the index of its job; then the outcome has none.
            runs_networks: Whether the work uses a GPU where there is one, or else several threads.
            uses_gpu: False where work that runs networks is to run them on a CPU.
        """
        ...

    def run_tasks(self, tasks: Sequence[Task]) -> Generator[States, None, None]:
        """Runs all tasks; yields the state of each now and then, and once all have ended.

        A task that fails stops no other but those that need it.
        """
        ...

    def describe_tasks(self, tasks: Sequence[Task]) -> str:
        """Describes how the tasks would be run: as commands, or as scripts for a scheduler."""
        ...

    def describe_cases(
        self,
        jobs: Sequence[tuple[str, Job]],
        *,
        label: str,
        sizes: Mapping[str, CaseSize] | None = None,
        runs_networks: bool = False,
        uses_gpu: bool = True,
    ) -> str:
        """Describes how `run_over_cases` would work on these cases: as scripts for a scheduler.

        Raises:
            OptionError: The place has no scheduler.
        """
        ...


def refuse_to_describe() -> NoReturn:
    """Refuses to describe work on cases, at a place without scripts.

    Raises:
        OptionError: Always.
    """
    msg = "--dry-run shows the scripts of jobs; give --on slurm, too, or leave it out"
    raise OptionError(msg)


def check_workers(workers: int | None, place: Place) -> None:
    """Checks that a number of processes is not given for jobs, which have as many as cores.

    Raises:
        OptionError: It is.
    """
    if workers is not None and place.is_detached:
        msg = (
            f"--workers {workers} counts processes of this computer, and a job has one for each of its cores; give "
            f"--slurm cpus={workers}"
        )
        raise OptionError(msg)
