"""Events that a training yields while it runs."""

from dataclasses import dataclass

from autoseg.training.budget.pace import Forecast
from autoseg.training.data.randomness import Stream
from autoseg.training.monitoring.history import EpochRecord
from autoseg.training.optimization.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationDone:
    """One iteration has ended; both streams are counted from 0 in every epoch."""

    epoch: int
    stream: Stream
    iteration: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """An epoch has ended and is in the log.

    Attributes:
        schedule: The schedule that it was trained with; the next epoch may follow another one.
    """

    record: EpochRecord
    schedule: Schedule


Event = Forecast | Schedule | IterationDone | EpochDone
"""Events of a training: first the forecast, if a budget was given, or else the schedule; a schedule again when it is
replaced; every iteration and epoch."""
