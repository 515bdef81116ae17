"""Runs a function over all cases in worker processes; one failing case does not stop the others."""

import itertools
import logging
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, Generic, TypeVar

from autoseg.errors import (
    AutosegError,
    Problem,
    ProblemsError,
    RunError,
    UnreachableError,
    WorkerError,
    group_problems,
    has_unnamed_cases,
)
from autoseg.processes.fork_server import defer_interruptions, prepare_context_of_work
from autoseg.processes.pool_worker import prepare_worker, run_job
from autoseg.processes.progress import Progress
from autoseg.processes.signals import TERMINATION_SIGNALS, StopSignal, list_unignored_signals
from autoseg.run_folder import make_folder
from autoseg.runtime.cpu_time import count_usable_cpus
from autoseg.runtime.host_memory import find_free_ram

Job = TypeVar("Job")
Result = TypeVar("Result")

SHARE_OF_FREE_MEMORY = 0.7
WORKER_BASE_BYTES = 250 * 2**20  # a fresh interpreter with numpy, scipy, SimpleITK and nibabel loaded (measured)
OUT_OF_MEMORY: Final = "OutOfMemoryError"  # of torch, which is not imported here
MEMORY_REMEDY: Final = "close other programs or use a machine with more"
ERRORS_OF_STARTING: Final = (OSError, EOFError)  # locks lie in shared memory; a server that cannot fork hangs up
SECONDS_TO_TIDY_UP: Final = 10.0  # for a worker that is terminated, after its running call of a library
SECONDS_BETWEEN_LOOKS: Final = 5.0  # for workers that died without the pool's notice
CASES_PER_WORKER: Final = 4  # that a pool knows at a time: enough that no worker waits for its next case


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A case that could not be finished.

    Attributes:
        case: Name of the case.
        problems: The problems of the case, each with its name.
        traceback: Traceback of an unexpected error; None for errors that the user can correct.
    """

    case: str
    problems: tuple[Problem, ...]
    traceback: str | None = None

    def describe(self) -> tuple[str, ...]:
        """Lists one line per problem, each with the name of the case."""
        return tuple(problem.describe() for problem in self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOutcome(Generic[Result]):
    """Results in the order of the jobs, without failed ones, and the failures."""

    results: tuple[Result, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class CaseEvent(Generic[Result]):
    """The end of the work on one case: its result or failure, and its index among the jobs."""

    index: int
    outcome: Result | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSize:
    """Size of a case.

    Attributes:
        voxels: Number of voxels of one channel, in the file.
        estimated_bytes: Memory that a worker needs for the case.
    """

    voxels: int
    estimated_bytes: int

    def describe(self) -> str:
        """Describes it for messages."""
        return f"{self.voxels / 1e6:.3g} million voxels, about {self.estimated_bytes / 2**30:.2g} GiB of memory"


def find_largest(sizes: Iterable[CaseSize]) -> int:
    """Returns the memory that a worker needs for the largest case; 0 if there is none."""
    return max((size.estimated_bytes for size in sizes), default=0)


def compute_worker_count(*, requested: int | None, case_count: int, bytes_per_case: int) -> int:
    """Returns the requested number of processes, else as many as cores, cases and free memory allow."""
    if requested is not None:
        return max(1, min(requested, case_count))
    free = find_free_ram() * SHARE_OF_FREE_MEMORY
    by_memory = int(free // (bytes_per_case + WORKER_BASE_BYTES))
    return max(1, min(count_usable_cpus(), case_count, by_memory))


def run_over_cases(
    work: Callable[[Job], Result],
    jobs: Sequence[tuple[str, Job]],
    *,
    workers: int,
    label: str,
    progress: Progress,
    sizes: Mapping[str, CaseSize] | None = None,
    collect: Callable[[int, Result], None] | None = None,
) -> PoolOutcome[Result]:
    """Calls `work(job)` for every (case name, job), in `workers` processes (in this process for one worker).

    A worker that is killed, typically for lack of memory, breaks its pool: the cases that the pool had begun are then
    tried once more, one at a time, and reported by name and size (`sizes`, by case name) if they fail again. A pool of
    half as many workers takes over those that it had not begun.

    `collect` gets each result in this process as it comes, with the index of its job; then the outcome has none.
    """
    if not jobs:
        return PoolOutcome(results=(), failures=())
    events = _run_here(work, jobs, range(len(jobs))) if workers == 1 else _run_in_pool(work, jobs, workers, sizes or {})
    return gather_outcome(progress.track(events, label=label, total=len(jobs), unit="case"), collect=collect)


def gather_outcome(
    events: Iterable[CaseEvent[Result]], *, collect: Callable[[int, Result], None] | None = None
) -> PoolOutcome[Result]:
    """Gathers what became of the cases; results that `collect` gets are not among it."""
    finished: dict[int, Result] = {}
    failures: dict[int, Failure] = {}
    for event in events:
        if isinstance(event.outcome, Failure):
            failures[event.index] = event.outcome
        elif collect is None:
            finished[event.index] = event.outcome
        else:
            collect(event.index, event.outcome)
    return PoolOutcome(
        results=tuple(finished[index] for index in sorted(finished)),
        failures=tuple(failures[index] for index in sorted(failures)),
    )


def list_problems(failures: Iterable[Failure]) -> tuple[Problem, ...]:
    """Lists the problems of all failures."""
    return tuple(problem for failure in failures for problem in failure.problems)


def build_failure(case: str, error: Exception) -> Failure:
    """Builds the failure of a case: with the message of a user's mistake, or the traceback of any other error.

    Raises:
        UnreachableError: A place by URL cannot be reached, which the other cases need, too.
    """
    if isinstance(error, UnreachableError):
        raise error
    if isinstance(error, ProblemsError):
        return Failure(case=case, problems=tuple(replace(problem, cases=(case,)) for problem in error.problems))
    if isinstance(error, AutosegError):
        return Failure(case=case, problems=(Problem(text=str(error), cases=(case,)),))
    if isinstance(error, MemoryError) or type(error).__name__ == OUT_OF_MEMORY:
        text = f"too little memory ({error}); close other programs, use fewer workers, or a machine with more memory"
        return Failure(case=case, problems=(Problem(text=text, cases=(case,)),))
    text = "".join(traceback.format_exception(error))
    problem = Problem(text=f"unexpected {type(error).__name__}: {error}", cases=(case,))
    return Failure(case=case, problems=(problem,), traceback=text)


def write_failure_log(path: Path, failures: Sequence[Failure], *, lists_cases: bool = True) -> tuple[Problem, ...]:
    """Appends the tracebacks of unexpected errors, and cases that the error message omits, to a log file.

    Args:
        path: Log file.
        failures: All failures.
        lists_cases: Whether the log lists all cases and their problems where a message names only some of them.

    Returns:
        A line that points the user to the log, or nothing. Where the log cannot be written, the line says so and
        names the cases itself.
    """
    unexpected = [failure for failure in failures if failure.traceback]
    is_shortened = lists_cases and has_unnamed_cases(group_problems(list_problems(failures)))
    logged = failures if is_shortened else unexpected
    if not logged:
        return ()
    text = "".join("\n".join(["", *failure.describe(), failure.traceback or ""]) for failure in logged)
    what = "all cases and their problems" if is_shortened else "tracebacks of unexpected errors"
    try:
        make_folder(path.parent)
        with path.open("a", encoding="utf-8") as log:
            log.write(text)
    except (OSError, RunError) as error:
        names = f"; they are: {', '.join(failure.case for failure in failures)}" if is_shortened else ""
        return (Problem(text=f"{what} cannot be written to {path}: {error}{names}"),)
    return (Problem(text=f"{what} are in {path}"),)


def _run_here(
    work: Callable[[Job], Result], jobs: Sequence[tuple[str, Job]], indices: Iterable[int]
) -> Iterator[CaseEvent[Result]]:
    for index in indices:
        name, job = jobs[index]
        try:
            yield CaseEvent(index, work(job))
        except Exception as error:
            yield CaseEvent(index, build_failure(name, error))


def _run_in_pool(
    work: Callable[[Job], Result], jobs: Sequence[tuple[str, Job]], workers: int, sizes: Mapping[str, CaseSize]
) -> Iterator[CaseEvent[Result]]:
    """Runs the jobs in pools, each of which follows one that broke; a pool knows few jobs at a time."""
    indices = iter(range(len(jobs)))
    while first := list(itertools.islice(indices, workers * CASES_PER_WORKER)):
        try:
            opened, futures = _submit_jobs(work, [jobs[index] for index in first], workers)
        except ERRORS_OF_STARTING as error:
            logging.getLogger(__name__).warning(
                "worker processes cannot be started (%s), usually because shared memory (/dev/shm) is full; "
                "this process works on one case after the other",
                error,
            )
            yield from _run_here(work, jobs, itertools.chain(first, indices))
            return
        running = {future: first[place] for future, place in futures.items()}
        interrupted: list[int] = []
        with opened as pool, _cancel_on_interruption(pool):
            following = _submit_following(pool, work, jobs, indices=indices, running=running, interrupted=interrupted)
            for future in _iterate_finished(futures, pool, following):
                index = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    interrupted.append(index)
                else:
                    yield _collect(index, jobs[index][0], future)
        if interrupted:
            _check_that_workers_start()
        for index in sorted(interrupted):
            name, job = jobs[index]
            yield _run_alone(work, name, job, index=index, size=sizes.get(name))
        workers = max(1, workers // 2)


def _submit_following(
    pool: ProcessPoolExecutor,
    work: Callable[[Job], Result],
    jobs: Sequence[tuple[str, Job]],
    *,
    indices: Iterator[int],
    running: dict["Future[Result]", int],
    interrupted: list[int],
) -> Iterator["Future[Result]"]:
    """Submits the next job each time; ends with the jobs, or with the first that the pool does not take."""
    for index in indices:
        try:
            future = pool.submit(run_job, work, jobs[index][1])
        except (BrokenProcessPool, *ERRORS_OF_STARTING):
            interrupted.append(index)
            return
        running[future] = index
        yield future


def _submit_jobs(
    work: Callable[[Job], Result], jobs: Sequence[tuple[str, Job]], workers: int
) -> tuple[ProcessPoolExecutor, dict["Future[Result]", int]]:
    """Opens a pool and submits all jobs, which starts the workers; if one cannot be started, none remains.

    Raises:
        OSError, EOFError: Workers cannot be started.
    """
    pool = _open_pool(workers, work)
    with _cancel_on_interruption(pool), defer_interruptions():
        try:
            return pool, {pool.submit(run_job, work, job): index for index, (_, job) in enumerate(jobs)}
        except ERRORS_OF_STARTING:
            for process in _list_processes(pool):
                process.kill()  # a worker that is starting ignores SIGTERM
                process.join(SECONDS_TO_TIDY_UP)
            raise


def _check_that_workers_start() -> None:
    """Distinguishes workers that cannot start at all from workers that a case kills."""
    try:
        pool, futures = _submit_jobs(str, [("", 0)], 1)
    except ERRORS_OF_STARTING as error:
        msg = f"worker processes ended, and no further one can be started ({error}); {MEMORY_REMEDY}"
        raise WorkerError(msg) from error
    with pool:
        (future,) = _iterate_finished(futures, pool, iter(()))
        if isinstance(future.exception(), BrokenProcessPool):
            msg = (
                "worker processes end as soon as they are started (their own message stands above); a script that "
                "calls autoseg must do so below `if __name__ == '__main__':`, or with one worker (workers=1)"
            )
            raise WorkerError(msg)


def _run_alone(
    work: Callable[[Job], Result], name: str, job: Job, *, index: int, size: CaseSize | None
) -> CaseEvent[Result]:
    described = f"{name} ({size.describe()})" if size is not None else name
    logging.getLogger(__name__).warning("a worker process was killed; %s is tried again alone", described)
    try:
        opened, futures = _submit_jobs(work, [(name, job)], 1)
    except ERRORS_OF_STARTING as error:
        message = f"its worker process was killed, and no further one can be started ({error}); {MEMORY_REMEDY}"
        return CaseEvent(index, Failure(case=name, problems=(Problem(text=message, cases=(name,)),)))
    with opened as pool, _cancel_on_interruption(pool):
        (future,) = _iterate_finished(futures, pool, iter(()))
        if isinstance(future.exception(), BrokenProcessPool):
            message = (
                f"the worker process was killed twice, the second time while it worked on this case alone"
                f"{'' if size is None else f' ({size.describe()})'}; "
                f"the usual cause is too little memory: {MEMORY_REMEDY}"
            )
            return CaseEvent(index, Failure(case=name, problems=(Problem(text=message, cases=(name,)),)))
        return _collect(index, name, future)


def _open_pool(workers: int, work: Callable[..., object]) -> ProcessPoolExecutor:
    heeded = list_unignored_signals(TERMINATION_SIGNALS)
    return ProcessPoolExecutor(
        workers, mp_context=prepare_context_of_work(work), initializer=prepare_worker, initargs=(heeded,)
    )


def _iterate_finished(
    futures: Iterable["Future[Result]"], pool: ProcessPoolExecutor, following: Iterator["Future[Result]"]
) -> Iterator["Future[Result]"]:
    """Yields the futures as they finish; if a worker has died and the pool has not noticed, it is told so.

    A worker that is killed while it sends a result leaves a pool waiting for the rest of it.

    Args:
        futures: Futures of the jobs that were submitted.
        pool: Pool that works on them.
        following: Submits one more job each time; asked once for every future that finishes.
    """
    waiting = set(futures)
    while waiting:
        finished, waiting = wait(waiting, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
        for future in finished:
            waiting.update(itertools.islice(following, 1))
            yield future
        if not finished and any(not process.is_alive() for process in _list_processes(pool)):
            _break_pool(pool)


def _list_processes(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    return list((pool._processes or {}).values())  # None once the pool is shut down


def _break_pool(pool: ProcessPoolExecutor) -> None:
    """Kills all workers and closes this end of their results, so that the pool finds itself broken."""
    for process in _list_processes(pool):
        process.kill()
    pool._result_queue._writer.close()  # type: ignore[attr-defined]  # otherwise the results have no end


@contextmanager
def _cancel_on_interruption(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Cancels the waiting cases when the caller is interrupted; running ones are finished, unless a signal other than
    Ctrl-C is why: whoever sent it will not wait for long."""
    try:
        yield
    except BaseException as error:
        workers = _list_processes(pool)
        is_urgent = isinstance(error, StopSignal) and error.number != signal.SIGINT
        if is_urgent:
            for worker in workers:
                worker.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        if is_urgent:
            deadline = time.monotonic() + SECONDS_TO_TIDY_UP
            for worker in workers:
                worker.join(max(0.0, deadline - time.monotonic()))
        raise


def _collect(index: int, name: str, future: "Future[Result]") -> CaseEvent[Result]:
    error = future.exception()
    if error is None:
        return CaseEvent(index, future.result())
    if not isinstance(error, Exception):
        raise error
    return CaseEvent(index, build_failure(name, error))
