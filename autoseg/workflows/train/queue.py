"""Trains many folds, each with a command of its own, at the place that is chosen; failures stop no others."""

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import RunError
from autoseg.places.local import Devices, ThisComputer
from autoseg.places.place import FAILURES, Place, Resources, Task, TaskState
from autoseg.processes.fold_lock import find_holder
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import RunFolder
from autoseg.workflows.folds.state import read_state, record_failure
from autoseg.workflows.folds.status import FoldStatus, apply_task_state
from autoseg.workflows.train.fold_options import compute_loader_count
from autoseg.workflows.train.interruption import describe_kept, describe_queue_continuation, is_earlier_one
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.units import Unit, is_up_to_date, limit_request, list_arguments


@dataclass(slots=True, kw_only=True)
class TrainingQueue:
    """Queue of units to train.

    Attributes:
        run: Run folder.
        units: All units.
        tasks: The command of each unit that is to be trained.
        following: Commands that follow them.
        place: Runs the commands.
        states: States of the commands, by name of the unit.
        failures: Reasons of failures by unit.
    """

    run: RunFolder
    units: tuple[Unit, ...]
    tasks: Mapping[Unit, Task]
    place: Place
    following: tuple[Task, ...] = ()
    states: Mapping[str, TaskState] = field(default_factory=dict)
    failures: dict[Unit, str] = field(default_factory=dict)

    def run_all(self) -> Generator[tuple[FoldStatus, ...], None, None]:
        """Trains all units; yields the status of all of them about once a second and at the end."""
        with closing(self.place.run_tasks(self.list_tasks())) as snapshots:
            for self.states in snapshots:
                self._note_failures()
                yield self.read_statuses()

    def list_tasks(self) -> tuple[Task, ...]:
        """Lists all commands in their order."""
        return (*self.tasks.values(), *self.following)

    def list_failures(self) -> tuple[str, ...]:
        """Lists the reasons of all failures, of the commands that follow the trainings, too."""
        states = [self.states[task.name] for task in self.following if task.name in self.states]
        return (*self.failures.values(), *(state.reason or "" for state in states if state.phase in FAILURES))

    def read_statuses(self) -> tuple[FoldStatus, ...]:
        """Reads the status of all units."""
        return tuple(self._read_status(unit) for unit in self.units)

    def describe_interruption(self, request: TrainingRequest) -> str:
        """Describes what is kept of the running trainings, and how to continue."""
        running = {unit.name: self.run.fold(unit.configuration, unit.fold) for unit in self._list_in_phase("running")}
        kept = [f"{name}: {describe_kept(folder)}" for name, folder in running.items()]
        waiting = [name for name, folder in running.items() if request.restart and is_earlier_one(folder)]
        waiting += [unit.name for unit in self._list_in_phase("waiting")]
        return "; ".join([*kept, describe_queue_continuation(request, waiting)])

    def _list_in_phase(self, phase: str) -> list[Unit]:
        return [unit for unit in self.tasks if self._find_state(unit).phase == phase]

    def _find_state(self, unit: Unit) -> TaskState:
        return self.states.get(unit.name, TaskState(phase="waiting"))

    def _read_status(self, unit: Unit) -> FoldStatus:
        status = unit.read_status(self.run)
        return apply_task_state(status, self._find_state(unit)) if unit in self.tasks else status

    def _note_failures(self) -> None:
        for unit in self.tasks:
            state = self._find_state(unit)
            if state.phase in FAILURES and unit not in self.failures:
                self._note_failure(unit, state)

    def _note_failure(self, unit: Unit, task: TaskState) -> None:
        self.failures[unit] = task.reason or ""
        if self.place.is_detached:
            return
        folder = self.run.fold(unit.configuration, unit.fold)
        state = read_state(folder)
        if task.where and find_holder(folder) is None and (state is None or state.phase != "failed"):
            with suppress(RunError):  # whatever made the training fail may also prevent writing this
                record_failure(folder, device=task.where, reason=self.failures[unit])


def build_queue(
    run_root: Path,
    units: Sequence[Unit],
    request: TrainingRequest,
    device_groups: Sequence[Devices],
    *,
    autoseg: Sequence[str] | None = None,
    stop: StopRequest | None = None,
) -> TrainingQueue:
    """Builds a queue of commands `autoseg train --configuration --fold` on this computer; finished units are skipped.

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
    waiting = [unit for unit in units if not is_up_to_date(run, unit, request)]
    return TrainingQueue(
        run=run,
        units=tuple(units),
        tasks={
            unit: build_task(run, unit, request, others=waiting, common=common, autoseg=autoseg) for unit in waiting
        },
        place=ThisComputer(device_groups=tuple(device_groups), stop=stop or StopRequest()),
    )


def build_task(
    run: RunFolder,
    unit: Unit,
    request: TrainingRequest,
    *,
    others: Sequence[Unit],
    common: Sequence[str],
    autoseg: Sequence[str] | None,
    resources: Resources | None = None,
) -> Task:
    """Builds the command that trains a unit.

    Args:
        run: Run folder.
        unit: The unit.
        request: Options of all trainings.
        others: All units that are to be trained.
        common: Further options.
        autoseg: The command that is `autoseg`; None: `python -m autoseg`.
        resources: Needs of the training.
    """
    command = [
        *(autoseg or (sys.executable, "-m", "autoseg")),
        "train",
        str(run.root),
        "--configuration",
        unit.configuration,
        "--fold",
        unit.fold,
    ]
    return Task(
        name=unit.name,
        command=(*command, *list_arguments(limit_request(request, unit)), *common),
        log=run.training_log(unit.configuration, unit.fold),
        needs=tuple(other.name for other in others if other.configuration == unit.needs),
        resources=resources or Resources(),
    )
