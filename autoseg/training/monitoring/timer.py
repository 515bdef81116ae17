"""The clock of an epoch."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from autoseg.training.data.batch import Batch
from autoseg.training.monitoring.history import PartialEpoch


@dataclass(slots=True, kw_only=True)
class Timer:
    """Measures the seconds of an epoch without pauses, and how many of them were spent waiting for batches."""

    start: float = field(default_factory=time.perf_counter)
    waited_seconds: float = 0.0

    def take(self, batches: Iterator[Batch]) -> Batch:
        """Returns the next batch; the wait for it is timed."""
        begin = time.perf_counter()
        batch = next(batches)
        self.waited_seconds += time.perf_counter() - begin
        return batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the timer within the context."""
        begin = time.perf_counter()
        yield
        self.start += time.perf_counter() - begin

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    @classmethod
    def resume(cls, begun: PartialEpoch) -> "Timer":
        """Returns the timer of an epoch whose first part was timed already."""
        return cls(start=time.perf_counter() - begun.seconds, waited_seconds=begun.data_wait_seconds)

    def describe(self, train_losses: Sequence[float]) -> PartialEpoch:
        """Returns the finished part of an epoch."""
        return PartialEpoch(
            train_losses=tuple(loss if math.isfinite(loss) else None for loss in train_losses),
            seconds=self.seconds,
            data_wait_seconds=self.waited_seconds,
        )
