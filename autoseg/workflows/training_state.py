"""How far a training is, in a small file that others read while it runs."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from autoseg.document import Document, read_document, write_document
from autoseg.errors import AutosegError, DocumentError, RunError
from autoseg.progress import Item, Progress
from autoseg.run_folder import FoldFolder
from autoseg.training.events import EpochDone, Event, IterationDone
from autoseg.training.pace import Forecast
from autoseg.training.schedule import Schedule

Phase = Literal["preparing", "training", "validating", "finished", "failed"]
SECONDS_BETWEEN_WRITES: Final = 1.0


class TrainingState(Document):
    """What the process that trains last said. Whether it still runs, only its lock tells.

    Attributes:
        end_epoch: Where training ends; None while that is not known.
        remaining_seconds: Of the phase; None if nobody knows.
        cases_done: Held-out cases that are predicted.
        cases: All of them.
        reason: Why it failed.
        warning: What must be known of the model: a training of few iterations.
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
    """What was written last; None if nothing was, or by another version."""
    try:
        return read_document(folder.state, TrainingState)
    except DocumentError:
        return None


@dataclass(slots=True, kw_only=True)
class StateKeeper:
    """Keeps the file of one training up to date.

    Attributes:
        clock: Seconds, monotonic.
    """

    folder: FoldFolder
    state: TrainingState
    clock: Callable[[], float] = time.monotonic
    written_seconds: float = field(default=float("-inf"), init=False)

    def change(self, **changes: Any) -> None:
        """Writes changed fields at once."""
        self.state = self.state.model_copy(update=changes)
        self.written_seconds = self.clock()
        write_document(self.folder.state, self.state, is_lasting=False)

    def follow(self, events: Iterable[Event]) -> Iterator[Event]:
        """Passes on what a training tells."""
        pace = Pace(clock=self.clock)
        for event in events:
            if isinstance(event, IterationDone):
                pace.count += 1
                self._change_sometimes(remaining_seconds=pace.estimate_seconds(event, self.state.end_epoch))
            elif isinstance(event, EpochDone):
                self.change(end_epoch=event.schedule.end_epoch)
            else:
                schedule = event.schedule if isinstance(event, Forecast) else event
                pace.take_up(schedule)
                self.change(phase="training", end_epoch=schedule.end_epoch)
            yield event

    def follow_cases(self, progress: Progress) -> Progress:
        """A listener that passes everything on to another one; what it is told of counts as validation."""
        return _CaseListener(keeper=self, listener=progress)

    def _change_sometimes(self, **changes: Any) -> None:
        if self.clock() - self.written_seconds >= SECONDS_BETWEEN_WRITES:
            self.change(**changes)


@dataclass(slots=True, kw_only=True)
class Pace:
    """How fast iterations pass.

    Attributes:
        start: When the schedule was taken up.
        count: Iterations since then, of training and validation.
        training_iterations: Of an epoch.
        validation_iterations: Of an epoch.
    """

    clock: Callable[[], float]
    start: float = 0.0
    count: int = 0
    training_iterations: int = 1
    validation_iterations: int = 0

    def take_up(self, schedule: Schedule) -> None:
        """Begins to measure anew."""
        self.training_iterations = schedule.iterations_per_epoch
        self.validation_iterations = schedule.validation_iterations_per_epoch
        self.start, self.count = self.clock(), 0

    def estimate_seconds(self, done: IterationDone, end_epoch: int | None) -> float | None:
        """Until the end, after one more iteration."""
        if end_epoch is None:
            return None
        in_epoch = done.iteration + 1 + (self.training_iterations if done.stream == "validation" else 0)
        left = (end_epoch - done.epoch) * (self.training_iterations + self.validation_iterations) - in_epoch
        return (self.clock() - self.start) / self.count * left


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseListener:
    keeper: StateKeeper
    listener: Progress

    def track(self, items: Iterable[Item], *, label: str, total: int, unit: str) -> Iterator[Item]:
        start = self.keeper.clock()
        self.keeper.change(phase="validating", cases=total, cases_done=0, remaining_seconds=None)
        tracked = self.listener.track(items, label=label, total=total, unit=unit)
        for done, item in enumerate(tracked, start=1):
            left = (self.keeper.clock() - start) / done * (total - done)
            self.keeper.change(cases_done=done, remaining_seconds=left)
            yield item

    def show_part(self, label: str, done: int, total: int) -> None:
        self.listener.show_part(label, done, total)

    def note(self, text: str) -> None:
        self.listener.note(text)


@contextmanager
def state_kept(folder: FoldFolder, *, device: str) -> Iterator[StateKeeper]:
    """Within it, a fold is trained; a failure is written down, an interruption is not: the lock will tell."""
    keeper = StateKeeper(folder=folder, state=TrainingState(phase="preparing", device=device))
    keeper.change()
    try:
        yield keeper
    except Exception as error:
        with suppress(RunError):  # a full disk, say, is reported once
            keeper.change(phase="failed", reason=describe_error(error), remaining_seconds=None)
        raise
    keeper.change(phase="finished", remaining_seconds=None)


def record_failure(folder: FoldFolder, *, device: str, reason: str) -> None:
    """Writes down why a training ended that could not do so itself."""
    state = read_state(folder) or TrainingState(phase="failed", device=device)
    changes = {"phase": "failed", "reason": reason, "remaining_seconds": None}
    write_document(folder.state, state.model_copy(update=changes), is_lasting=False)


def describe_error(error: Exception) -> str:
    """The user's mistake in its own words, anything else with its type."""
    return str(error) if isinstance(error, AutosegError) else f"unexpected {type(error).__name__}: {error}"
