"""This computer: cases in worker processes, commands in child processes, as many at a time as devices allow."""

import shlex
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from autoseg.places.place import Job, Result, States, Task, TaskState, refuse_to_describe
from autoseg.processes.case_pool import CaseSize, PoolOutcome, run_over_cases
from autoseg.processes.child_process import SECONDS_TO_STOP, Child, start_child, stop_children
from autoseg.processes.fork_server import defer_interruptions
from autoseg.processes.parent_watch import SECONDS_TO_SAVE
from autoseg.processes.progress import Progress
from autoseg.processes.signals import StopRequest
from autoseg.runtime.cpu_time import count_usable_cpus
from autoseg.runtime.device_use import SHARING_VARIABLE

SECONDS_BETWEEN_LOOKS: Final = 1.0
SECONDS_FOR_REASONS: Final = 2.0  # when one of several processes fails, the others fail soon after it

Devices = tuple[str, ...]
"""Devices that run one task together; often a single one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThisComputer:
    """The place that needs nothing.

    Attributes:
        device_groups: Groups of devices, each of which runs one task at a time; a task gets the option `--device`.
        stop: Receives requests to end.
    """

    device_groups: tuple[Devices, ...] = (("auto",),)
    stop: StopRequest = field(default_factory=StopRequest)

    @property
    def is_detached(self) -> bool:
        """Returns False: running tasks are stopped with the command that has started them."""
        return False

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
        """Calls `work(job)` for every case, in worker processes."""
        del runs_networks, uses_gpu
        return run_over_cases(work, jobs, workers=workers, label=label, progress=progress, sizes=sizes, collect=collect)

    def run_tasks(self, tasks: Sequence[Task]) -> Generator[States, None, None]:
        """Runs all tasks; yields their states about once a second and at the end.

        When it is closed early or interrupted, running tasks are stopped as by Ctrl-C and save their state.
        """
        return _ProcessQueue(place=self, waiting=deque(tasks)).run_all()

    def describe_tasks(self, tasks: Sequence[Task]) -> str:
        """Lists the commands."""
        return "\n".join(shlex.join(task.command) for task in tasks)

    def describe_cases(self, jobs: Sequence[tuple[str, Job]], **described: Any) -> NoReturn:
        """Refuses to describe work on cases, for which there is no script.

        Raises:
            OptionError: Always.
        """
        refuse_to_describe()


@dataclass(slots=True, kw_only=True)
class _RunningTask:
    """A task that is being run, by one process per device; the first process leads."""

    task: Task
    devices: Devices
    children: tuple[Child, ...]

    @property
    def where(self) -> str:
        return "+".join(self.devices)

    def find_end(self) -> str | None:
        """Returns None while it runs, an empty text after success, else the reason of the failure."""
        codes = [child.poll() for child in self.children]
        if not any(codes):
            return None if None in codes else ""
        if len(self.children) > 1:
            time.sleep(SECONDS_FOR_REASONS)
        failed = [child for child in self.children if child.poll()]
        reason = min(failed, key=Child.rank_end).describe_end()
        stop_children(self.children, seconds=SECONDS_TO_STOP)
        return reason


@dataclass(slots=True, kw_only=True)
class _ProcessQueue:
    """Queue of tasks.

    Attributes:
        waiting: Tasks that are not started, in the order in which they will be.
        running: Tasks that are being run.
        ended: States of those that have ended.
    """

    place: ThisComputer
    waiting: deque[Task]
    running: list[_RunningTask] = field(default_factory=list)
    ended: dict[str, TaskState] = field(default_factory=dict)

    def run_all(self) -> Generator[States, None, None]:
        try:
            while self.waiting or self.running:
                self._collect()
                with defer_interruptions():  # otherwise a started process might not be registered
                    self._start()
                yield self._list_states()
                if self.running:
                    time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            self._stop_running()
        yield self._list_states()

    def _list_states(self) -> States:
        running = {work.task.name: TaskState(phase="running", where=work.where) for work in self.running}
        return {task.name: TaskState(phase="waiting") for task in self.waiting} | running | self.ended

    def _stop_running(self) -> None:
        if not self.running:
            return
        names = "; ".join(work.task.name for work in self.running)
        self.place.stop.tell(f"stopping as soon as this is saved: {names}")
        with self.place.stop.postpone_stop("all is saved"):
            stop_children([child for work in self.running for child in work.children], seconds=SECONDS_TO_SAVE)

    def _collect(self) -> None:
        """Removes finished tasks from the running ones and records failures."""
        for work in tuple(self.running):
            reason = work.find_end()
            if reason is None:
                continue
            self.running.remove(work)
            self.ended[work.task.name] = TaskState(
                phase="failed" if reason else "finished", where=work.where, reason=reason or None
            )

    def _start(self) -> None:
        """Starts a task on every free group of devices."""
        for devices in self._list_free_groups():
            task = self._take_next()
            if task is not None:
                self.running.append(self._start_task(task, devices))

    def _list_free_groups(self) -> list[Devices]:
        free = list(self.place.device_groups)
        for work in self.running:
            free.remove(work.devices)
        return free

    def _take_next(self) -> Task | None:
        """Takes the first waiting task that can start; tasks that never can become failures."""
        for task in tuple(self.waiting):
            states = [self.ended.get(name) for name in task.needs]
            failed = [name for name, end in zip(task.needs, states, strict=True) if end and end.phase == "failed"]
            if failed:
                self.waiting.remove(task)
                reason = f"it needs {', '.join(failed)}, which failed"
                self.ended[task.name] = TaskState(phase="failed", reason=reason)
            elif None not in states:
                self.waiting.remove(task)
                return task
        return None

    def _start_task(self, task: Task, devices: Devices) -> _RunningTask:
        environments = _list_environments(devices, self.place.device_groups)
        children: list[Child] = []
        for rank, (device, environment) in enumerate(zip(devices, environments, strict=True)):
            command = [*task.command, "--device", device]
            children.append(start_child(command, log=task.find_log(rank), environment=environment))
        return _RunningTask(task=task, devices=devices, children=tuple(children))


def _list_environments(devices: Devices, device_groups: Sequence[Devices]) -> list[Mapping[str, str]]:
    """Lists environment variables for the processes of one task: those of torchrun, and shares of cores and memory."""
    all_devices = [device for group in device_groups for device in group]
    shares = [share_threads(all_devices) | share_memory(device, all_devices) for device in devices]
    if len(devices) == 1:
        return [*shares]
    process_group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_find_free_port()), "WORLD_SIZE": str(len(devices))}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(len(devices))]
    return [share | process_group | rank for share, rank in zip(shares, ranks, strict=True)]


def share_threads(devices: Sequence[str]) -> dict[str, str]:
    """Divides the cores among several processes that compute on the CPU; a single one uses its own default."""
    count = devices.count("cpu")
    return {"OMP_NUM_THREADS": str(max(1, count_usable_cpus() // count))} if count > 1 else {}


def share_memory(device: str, devices: Sequence[str]) -> dict[str, str]:
    """Divides the memory of an accelerator among the processes that compute on it."""
    count = devices.count(device)
    return {SHARING_VARIABLE: str(count)} if count > 1 and device != "cpu" else {}


def _find_free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
