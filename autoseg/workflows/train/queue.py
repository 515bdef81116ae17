"""Trains many folds, each with a command of its own, as many at a time as devices allow; failures stop no others."""

import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from autoseg.errors import RunError
from autoseg.processes.child_process import SECONDS_TO_STOP, Child, start_child, stop_children
from autoseg.processes.fold_lock import find_holder
from autoseg.processes.fork_server import defer_interruptions
from autoseg.processes.parent_watch import SECONDS_TO_SAVE
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import RunFolder
from autoseg.runtime.cpu_time import count_usable_cpus
from autoseg.workflows.folds.state import read_state, record_failure
from autoseg.workflows.folds.status import FoldStatus
from autoseg.workflows.train.device_groups import Devices
from autoseg.workflows.train.fold_options import compute_loader_count
from autoseg.workflows.train.interruption import describe_kept, describe_queue_continuation
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.units import Unit, is_up_to_date, limit_request, list_arguments

SECONDS_BETWEEN_LOOKS: Final = 1.0
SECONDS_FOR_REASONS: Final = 2.0  # when one of several processes fails, the others fail soon after it

BuildCommand = Callable[[Unit, str], Sequence[str]]
"""Builds the command that trains a unit on a device."""


@dataclass(slots=True, kw_only=True)
class RunningUnit:
    """A unit that is being trained, by one process per device; the first process leads."""

    unit: Unit
    devices: Devices
    children: tuple[Child, ...]

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
class TrainingQueue:
    """Queue of units to train.

    Attributes:
        run: Run folder.
        units: All units.
        device_groups: Groups of devices, each of which trains one unit at a time.
        build_command: Builds the command that trains a unit on a device.
        waiting: Units that are not started, in the order in which they will be.
        running: Units that are being trained.
        failures: Reasons of failures by unit.
        stop: Receives requests to end.
    """

    run: RunFolder
    units: tuple[Unit, ...]
    device_groups: tuple[Devices, ...]
    build_command: BuildCommand
    waiting: deque[Unit]
    running: list[RunningUnit] = field(default_factory=list)
    failures: dict[Unit, str] = field(default_factory=dict)
    stop: StopRequest = field(default_factory=StopRequest)

    def run_all(self) -> Generator[tuple[FoldStatus, ...], None, None]:
        """Trains all units; yields the status of all of them about once a second and at the end.

        When it is closed early or interrupted, running trainings are stopped as by Ctrl-C and save their state.
        """
        try:
            while self.waiting or self.running:
                self._collect()
                with defer_interruptions():  # otherwise a started process might not be registered
                    self._start()
                yield self.read_statuses()
                if self.running:
                    time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            self._stop_running()
        yield self.read_statuses()

    def read_statuses(self) -> tuple[FoldStatus, ...]:
        """Reads the status of all units."""
        devices = {work.unit: "+".join(work.devices) for work in self.running}
        return tuple(self._read_status(unit, devices.get(unit)) for unit in self.units)

    def describe_interruption(self, request: TrainingRequest) -> str:
        """Describes what is kept of the running trainings, and how to continue."""
        kept = [
            f"{unit.name}: {describe_kept(self.run.fold(unit.configuration, unit.fold))}"
            for unit in self._running_units
        ]
        return "; ".join([*kept, describe_queue_continuation(request, [unit.name for unit in self.waiting])])

    @property
    def _running_units(self) -> list[Unit]:
        return [work.unit for work in self.running]

    def _stop_running(self) -> None:
        if not self.running:
            return
        self.stop.tell(f"stopping as soon as this is saved: {'; '.join(unit.name for unit in self._running_units)}")
        with self.stop.postpone_stop("all is saved"):
            stop_children([child for work in self.running for child in work.children], seconds=SECONDS_TO_SAVE)

    def _read_status(self, unit: Unit, device: str | None) -> FoldStatus:
        status = unit.read_status(self.run)
        if unit in self.failures:
            return replace(status, state="failed", reason=self.failures[unit])
        if device is not None:
            return replace(status, state=status.state if status.is_running else "preparing", device=device)
        return replace(status, state="waiting") if unit in self.waiting else status

    def _collect(self) -> None:
        """Removes finished units from the running ones and records failures."""
        for work in tuple(self.running):
            reason = work.find_end()
            if reason is None:
                continue
            self.running.remove(work)
            if reason:
                self._note_failure(work, reason)

    def _note_failure(self, work: RunningUnit, reason: str) -> None:
        self.failures[work.unit] = reason
        folder = self.run.fold(work.unit.configuration, work.unit.fold)
        state = read_state(folder)
        if find_holder(folder) is None and (state is None or state.phase != "failed"):
            with suppress(RunError):  # whatever made the training fail may also prevent writing this
                record_failure(folder, device=work.devices[0], reason=reason)

    def _start(self) -> None:
        """Starts a unit on every free group of devices."""
        for devices in self._list_free_groups():
            unit = self._take_next()
            if unit is not None:
                self.running.append(self._start_unit(unit, devices))

    def _list_free_groups(self) -> list[Devices]:
        free = list(self.device_groups)
        for work in self.running:
            free.remove(work.devices)
        return free

    def _take_next(self) -> Unit | None:
        """Takes the first waiting unit that can start; units that never can become failures."""
        for unit in tuple(self.waiting):
            missing = [other for other in self.units if other.configuration == unit.needs]
            failed = [other.name for other in missing if other in self.failures]
            if failed:
                self.waiting.remove(unit)
                self.failures[unit] = f"it needs {', '.join(failed)}, which failed"
            elif not any(other in self.waiting or self._is_running(other) for other in missing):
                self.waiting.remove(unit)
                return unit
        return None

    def _is_running(self, unit: Unit) -> bool:
        return unit in self._running_units

    def _start_unit(self, unit: Unit, devices: Devices) -> RunningUnit:
        environments = _list_environments(devices, self.device_groups)
        children: list[Child] = []
        for rank, (device, environment) in enumerate(zip(devices, environments, strict=True)):
            log = self.run.training_log(unit.configuration, unit.fold, rank)
            children.append(start_child(self.build_command(unit, device), log=log, environment=environment))
        return RunningUnit(unit=unit, devices=devices, children=tuple(children))


def build_queue(
    run_root: Path,
    units: Sequence[Unit],
    request: TrainingRequest,
    device_groups: Sequence[Devices],
    *,
    autoseg: Sequence[str] | None = None,
    stop: StopRequest | None = None,
) -> TrainingQueue:
    """Builds a queue of commands `autoseg train --configuration --fold --device`; finished units are skipped.

    Args:
        autoseg: The command that is `autoseg`; None: `python -m autoseg`.
    """
    run = RunFolder(run_root)
    workers = request.workers
    device_count = sum(len(devices) for devices in device_groups)
    if workers is None:
        workers = max(1, compute_loader_count(device_groups[0][0]) // device_count)
    common = [
        "--workers",
        str(workers),
        *(["--parallel"] if any(len(devices) > 1 for devices in device_groups) else []),
    ]

    def build_command(unit: Unit, device: str) -> list[str]:
        command = [*(autoseg or (sys.executable, "-m", "autoseg")), "train", str(run_root)]
        command += ["--configuration", unit.configuration, "--fold", unit.fold, "--device", device]
        return [*command, *list_arguments(limit_request(request, unit)), *common]

    return TrainingQueue(
        run=run,
        units=tuple(units),
        device_groups=tuple(device_groups),
        build_command=build_command,
        waiting=deque(unit for unit in units if not is_up_to_date(run, unit, request)),
        stop=stop or StopRequest(),
    )


def _list_environments(devices: Devices, device_groups: Sequence[Devices]) -> list[Mapping[str, str]]:
    """Lists environment variables for the processes of one unit: those of torchrun, and the number of threads."""
    threads = _share_threads([device for place in device_groups for device in place])
    if len(devices) == 1:
        return [threads]
    process_group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_find_free_port()), "WORLD_SIZE": str(len(devices))}
    return [threads | process_group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(len(devices))]


def _share_threads(devices: Sequence[str]) -> dict[str, str]:
    """Divides the cores among several processes that compute on the CPU; a single one uses its own default."""
    count = devices.count("cpu")
    return {"OMP_NUM_THREADS": str(max(1, count_usable_cpus() // count))} if count > 1 else {}


def _find_free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
