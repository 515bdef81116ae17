"""Keeps the state of a training in a small file that other processes read while it runs."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from autoseg.document import Document, read_document, write_document
from autoseg.errors import AutosegError, DocumentError, RunError
from autoseg.processes.fold_lock import find_holder
from autoseg.processes.progress import Item, Progress, Total, read_total
from autoseg.remote.mirror import list_set_aside, name_urls
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.training.budget.pace import Forecast
from autoseg.training.monitoring.events import EpochDone, Event, IterationDone
from autoseg.training.optimization.schedule import Schedule

logger = logging.getLogger(__name__)

Phase = Literal["preparing", "training", "validating", "finished", "failed"]
SECONDS_BETWEEN_WRITES: Final = 1.0
KILLED_RESTART: Final = "its earlier training was set aside by a restart that was killed; autoseg train gives it back"


class TrainingState(Document):
    """Last state that the training process reported; whether it still runs follows from its lock alone.

    Attributes:
        phase: Current phase.
        device: Device that trains.
        end_epoch: Number of epochs at the end of the training; None while unknown.
        remaining_seconds: Remaining time of the phase; None while unknown.
        cases_done: Number of held-out cases that are predicted.
        cases: Number of held-out cases.
        reason: Reason of a failure.
        warning: Remark on the model, such as a training of few iterations.
    """

    schema_version: Literal[1] = 1
    phase: Phase
    device: str
    end_epoch: int | None = None
    remaining_seconds: float | None = None
    cases_done: int = 0
    cases: int = 0
    reason: str | None = None
    warning: str | None = None


def read_state(folder: FoldFolder) -> TrainingState | None:
    """Reads the last state; None if there is none, or it was written by another version."""
    try:
        return read_document(folder.state, TrainingState)
    except DocumentError:
        return None


def find_restart_mark(folder: FoldFolder) -> Path:
    """Returns the file that marks a training that jobs are to begin again, until they have begun it.

    It lies beside the folder, which may be set aside or given back meanwhile.
    """
    return folder.root.with_name(f".{folder.root.name}.restart")


def list_restart_marks(run: RunFolder) -> list[tuple[str, str, Path]]:
    """Lists configuration, fold and mark of all trainings that are to begin again."""
    marks = sorted(run.root.glob("models/*/.fold_*.restart"))
    return [(mark.parent.name, mark.name.removeprefix(".fold_").removesuffix(".restart"), mark) for mark in marks]


def list_killed_restarts(run: RunFolder) -> list[tuple[str, str]]:
    """Lists configuration and fold of all trainings that a restart has set aside and that nothing has given back since,
    as after a kill."""
    aside = [fold for models in sorted(run.root.glob("models/*")) for fold in list_set_aside(models, "fold_")]
    left = [fold for fold in aside if find_holder(FoldFolder(fold)) is None]
    return [(fold.parent.name, fold.name.removeprefix("fold_")) for fold in left]


@dataclass(slots=True, kw_only=True)
class StateWriter:
    """Writes the state file of one training.

    Attributes:
        folder: Folder of the training.
        state: Current state.
        clock: Returns monotonic seconds.
        written_seconds: Time of the last write.
        is_outdated: Whether the last write failed.
    """

    folder: FoldFolder
    state: TrainingState
    clock: Callable[[], float] = time.monotonic
    written_seconds: float = field(default=float("-inf"), init=False)
    is_outdated: bool = field(default=False, init=False)

    def write(self) -> None:
        """Writes the file.

        Raises:
            RunError: The folder cannot be written or the disk is full.
        """
        self.written_seconds = self.clock()
        write_document(self.folder.state, self.state, is_durable=False)

    def change(self, **changes: Any) -> None:
        """Changes fields and writes the file; a training does not end because that fails, which is in the log once."""
        self._update(changes)
        try:
            self.write()
        except RunError as error:
            if not self.is_outdated:
                logger.warning("%s; training continues, `autoseg status` shows an earlier state meanwhile", error)
            self.is_outdated = True
        else:
            self.is_outdated = False

    def record_failure(self, error: Exception) -> None:
        """Records why the training failed, if that can be written: what prevents it is mostly the reason itself."""
        self._update({"phase": "failed", "reason": describe_failure(error), "remaining_seconds": None})
        with suppress(RunError):
            self.write()

    def follow(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yields the events of a training unchanged and records them."""
        rate = IterationRate(clock=self.clock)
        for event in events:
            if isinstance(event, IterationDone):
                rate.count += 1
                self._change_sometimes(remaining_seconds=rate.estimate_seconds(event, self.state.end_epoch))
            elif isinstance(event, EpochDone):
                self.change(end_epoch=event.schedule.end_epoch)
            else:
                schedule = event.schedule if isinstance(event, Forecast) else event
                rate.restart(schedule)
                self.change(phase="training", end_epoch=schedule.end_epoch)
            yield event

    def record_validation(self, progress: Progress) -> Progress:
        """Wraps a progress listener; the items that it tracks are recorded as validated cases."""
        return _CaseListener(state_writer=self, listener=progress)

    def _update(self, changes: Mapping[str, Any]) -> None:
        self.state = self.state.model_copy(update=changes)

    def _change_sometimes(self, **changes: Any) -> None:
        if self.clock() - self.written_seconds >= SECONDS_BETWEEN_WRITES:
            self.change(**changes)


@dataclass(slots=True, kw_only=True)
class IterationRate:
    """Measures the rate of iterations.

    Attributes:
        clock: Returns monotonic seconds.
        start: Time at which the schedule was started.
        count: Iterations of training and validation since then.
        training_iterations: Training iterations per epoch.
        validation_iterations: Validation iterations per epoch.
    """

    clock: Callable[[], float]
    start: float = 0.0
    count: int = 0
    training_iterations: int = 1
    validation_iterations: int = 0

    def restart(self, schedule: Schedule) -> None:
        """Restarts the measurement for a schedule."""
        self.training_iterations = schedule.iterations_per_epoch
        self.validation_iterations = schedule.validation_iterations_per_epoch
        self.start, self.count = self.clock(), 0

    def estimate_seconds(self, done: IterationDone, end_epoch: int | None) -> float | None:
        """Estimates the remaining time after one more iteration."""
        if end_epoch is None:
            return None
        in_epoch = done.iteration + 1 + (self.training_iterations if done.stream == "validation" else 0)
        left = (end_epoch - done.epoch) * (self.training_iterations + self.validation_iterations) - in_epoch
        return (self.clock() - self.start) / self.count * left


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseListener:
    state_writer: StateWriter
    listener: Progress

    def track(self, items: Iterable[Item], *, label: str, total: Total, unit: str) -> Iterator[Item]:
        start = self.state_writer.clock()
        cases = read_total(total)
        self.state_writer.change(phase="validating", cases=cases, cases_done=0, remaining_seconds=None)
        tracked = self.listener.track(items, label=label, total=total, unit=unit)
        for done, item in enumerate(tracked, start=1):
            left = (self.state_writer.clock() - start) / done * (cases - done)
            self.state_writer.change(cases_done=done, remaining_seconds=left)
            yield item

    def show_part(self, label: str, done: int, total: int, unit: str = "windows") -> None:
        self.listener.show_part(label, done, total, unit)

    def note(self, text: str) -> None:
        self.listener.note(text)


@contextmanager
def keep_state(folder: FoldFolder, *, device: str) -> Iterator[StateWriter]:
    """Context manager around a training that writes its state; an interruption shows by the released lock alone."""
    state_writer = StateWriter(folder=folder, state=TrainingState(phase="preparing", device=device))
    state_writer.write()
    try:
        yield state_writer
    except Exception as error:
        state_writer.record_failure(error)
        raise
    state_writer.change(phase="finished", remaining_seconds=None)


def record_failure(folder: FoldFolder, *, device: str, reason: str) -> None:
    """Records the failure of a training that could not record it itself."""
    state = read_state(folder) or TrainingState(phase="failed", device=device)
    changes = {"phase": "failed", "reason": reason, "remaining_seconds": None}
    write_document(folder.state, state.model_copy(update=changes), is_durable=False)


def describe_failure(error: Exception) -> str:
    """Returns the message of a user's mistake, and type and message of any other error."""
    return name_urls(str(error)) if isinstance(error, AutosegError) else f"unexpected {type(error).__name__}: {error}"
