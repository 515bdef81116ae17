"""Events that a training yields while it runs."""

from dataclasses import dataclass

from autoseg.training.history import EpochRecord
from autoseg.training.pace import Forecast
from autoseg.training.randomness import Stream
from autoseg.training.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationDone:
    """One batch has passed; both streams are counted from 0 in every epoch."""

    epoch: int
    stream: Stream
    iteration: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """An epoch is over and in the log.

    Attributes:
        schedule: By which it was trained; the next one may follow another one.
    """

    record: EpochRecord
    schedule: Schedule


Event = Forecast | Schedule | IterationDone | EpochDone
"""What a training tells: first the forecast, if a budget was given, or else the schedule; a schedule again when it is
replaced; every iteration and epoch."""
