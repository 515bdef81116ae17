"""Gives cases to the workers of Dask, a limited number at a time, and collects what becomes of them."""

import asyncio
import concurrent.futures
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Protocol, cast, runtime_checkable

from autoseg.errors import AutosegError, Problem, WorkerError
from autoseg.places.case_worker import Caller, Refusal, keep_mark, run_case
from autoseg.places.place import Job, Result
from autoseg.processes.case_pool import CaseEvent, CaseSize, Failure

MOST_SUBMITTED: Final = 500
"""Tasks that the scheduler holds at a time; each has a copy of what the work needs, such as the plan."""
SECONDS_BETWEEN_LOOKS: Final = 2.0
SECONDS_FOR_RESULT: Final = 60.0  # a result is small; of a worker that died meanwhile, it is computed again
SECONDS_WITHOUT_WORKERS: Final = 300.0
GPU: Final = "GPU"
"""Resource that workers with a GPU are started with."""
KILLED: Final = "KilledWorker"  # error of Dask, which is not imported here
ADVICE: Final = "nothing that is written is lost, and the same command continues"

logger = logging.getLogger(__name__)


@runtime_checkable
class TaskFuture(Protocol):
    """What is used of `distributed.Future`."""

    def result(self, timeout: float) -> Any:
        """Returns the result."""
        ...

    def exception(self, timeout: float) -> Any:
        """Returns the error of the task, or None."""
        ...

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls a function once the task has ended, in another thread."""
        ...


@runtime_checkable
class DaskClient(Protocol):
    """What is used of `distributed.Client`."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Submits a task and returns its future."""
        ...

    def cancel(self, futures: Any, **options: Any) -> Any:
        """Cancels tasks that do not run yet."""
        ...

    def scheduler_info(self) -> Mapping[str, Any]:
        """Describes the workers."""
        ...


@dataclass(slots=True, kw_only=True)
class CaseQueue(Generic[Job, Result]):
    """The cases of one piece of work.

    Attributes:
        client: Connection to the scheduler.
        work: Function of a job.
        jobs: Names and jobs of the cases.
        caller: Description of this process, with which the workers must agree.
        label: Word for the work.
        runs_networks: Whether only workers with a GPU get cases, if there are such.
        sizes: Sizes of cases by name, for reports of lack of memory.
        note: Receives notes.
    """

    client: DaskClient
    work: Callable[[Job], Result]
    jobs: Sequence[tuple[str, Job]]
    caller: Caller
    label: str
    runs_networks: bool
    sizes: Mapping[str, CaseSize]
    note: Callable[[str], None]
    _running: dict[int, TaskFuture] = field(default_factory=dict, init=False)
    _ended: "SimpleQueue[int]" = field(default_factory=SimpleQueue, init=False)
    _resources: dict[str, int] = field(default_factory=dict, init=False)
    _seconds_of_workers: float | None = field(default=None, init=False)

    def iterate(self) -> Iterator[CaseEvent[Result]]:
        """Yields the end of every case; closing it early cancels those that are not yet worked on.

        Raises:
            WorkerError: Workers cannot work on the cases, or they or the scheduler are gone.
        """
        if self.runs_networks and self._count_workers({GPU: 1}):
            self._resources = {GPU: 1}
        try:
            killed = yield from self._run(range(len(self.jobs)), at_once=MOST_SUBMITTED)
            if len(killed) > 1:  # Dask suspects everything that a dead worker was about to work on
                logger.warning("workers died; %d cases are tried again, one at a time", len(killed))
                killed = yield from self._run(killed, at_once=1)
            for index in killed:
                yield CaseEvent(index, self._explain_killed(index))
        finally:
            self.client.cancel(list(self._running.values()), force=True)

    def _run(self, indices: Iterable[int], *, at_once: int) -> Generator[CaseEvent[Result], None, list[int]]:
        """Works on cases; returns those whose workers died."""
        waiting, killed = deque(indices), []
        while waiting or self._running:
            while waiting and len(self._running) < at_once:
                self._submit(waiting.popleft())
            index, outcome = self._take()
            if isinstance(outcome, Exception) and type(outcome).__name__ == KILLED:
                killed.append(index)
            else:
                self._check_outcome(outcome)
                yield CaseEvent(index, cast("Result | Failure", outcome))
        return sorted(killed)

    def _submit(self, index: int) -> None:
        name, job = self.jobs[index]
        future = self.client.submit(
            run_case,
            self.work,
            name,
            job,
            self.caller,
            runs_networks=self.runs_networks,
            key=f"{self.label.lower()}-{name}-{uuid.uuid4().hex}",
            pure=False,
            resources=self._resources or None,
        )
        self._watch(index, future)

    def _watch(self, index: int, future: TaskFuture) -> None:
        self._running[index] = future
        future.add_done_callback(lambda _: self._ended.put(index))

    def _take(self) -> tuple[int, object]:
        """Waits for the end of a task; returns the index of its case, and what it returned or its error."""
        while True:
            keep_mark(self.caller)
            try:
                index = self._ended.get(timeout=SECONDS_BETWEEN_LOOKS)
            except Empty:
                self._check_workers()
                continue
            try:
                outcome = _read_outcome(self._running[index])
            except TimeoutError:
                self._watch(index, self._running[index])
                continue
            del self._running[index]
            return index, outcome

    def _check_workers(self) -> None:
        """Gives up when there have been no workers for a while."""
        if self._count_workers(self._resources):
            self._seconds_of_workers = None
            return
        if self._seconds_of_workers is None:
            self._seconds_of_workers = time.monotonic()
            what = "workers with the resource GPU" if self._resources else "workers"
            self.note(f"waiting for {what} of Dask, of which there are none")
        if time.monotonic() - self._seconds_of_workers >= SECONDS_WITHOUT_WORKERS:
            msg = (
                f"Dask has had no workers for {SECONDS_WITHOUT_WORKERS:.0f} seconds; start some, see their logs if "
                f"they ended, and repeat the command: {ADVICE}"
            )
            raise WorkerError(msg)

    def _count_workers(self, resources: Mapping[str, int]) -> int:
        try:
            workers = self.client.scheduler_info()["workers"].values()
        except (OSError, ValueError) as error:  # the connection is closed
            raise WorkerError(_describe_lost_scheduler(error)) from error
        return sum(all(name in (worker.get("resources") or {}) for name in resources) for worker in workers)

    def _check_outcome(self, outcome: object) -> None:
        if isinstance(outcome, Refusal):
            raise WorkerError(outcome.describe())
        if isinstance(outcome, AutosegError):  # what all cases need is out of reach
            raise outcome
        if isinstance(outcome, Exception):
            msg = (
                f"a worker of Dask cannot work on cases ({type(outcome).__name__}: {outcome}); workers need the same "
                f"Python, autoseg and Dask as this computer"
            )
            raise WorkerError(msg) from outcome

    def _explain_killed(self, index: int) -> Failure:
        name = self.jobs[index][0]
        size = self.sizes.get(name)
        text = (
            f"every worker that worked on this case{'' if size is None else f' ({size.describe()})'} died; the usual "
            f"cause is too little memory: start fewer workers on each computer, or with a higher --memory-limit, and "
            f"see their logs"
        )
        return Failure(case=name, problems=(Problem(text=text, cases=(name,)),))


def _read_outcome(future: TaskFuture) -> object:
    """Returns what a task returned, or its error.

    Raises:
        TimeoutError: The worker died before the result was fetched, and another one computes it.
        WorkerError: The scheduler is gone.
    """
    try:
        error = future.exception(timeout=SECONDS_FOR_RESULT)
        return future.result(timeout=SECONDS_FOR_RESULT) if error is None else error
    except TimeoutError:
        raise
    except (asyncio.CancelledError, concurrent.futures.CancelledError) as lost:
        raise WorkerError(_describe_lost_scheduler(lost)) from lost
    except Exception as error:
        return error


def _describe_lost_scheduler(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return f"the connection to the scheduler of Dask was lost ({reason}); start it and its workers again: {ADVICE}"
