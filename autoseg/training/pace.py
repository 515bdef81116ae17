"""Keeping a training inside a budget of time: how long it may be, and what to do when the machine turns out slower."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from autoseg.plan import TrainingPlan
from autoseg.training.schedule import Schedule, build_schedule

EPOCHS_OF_A_BUDGET: Final = 100  # so that pace and learning rate can follow the clock closely
EPOCHS_THAT_TELL_THE_PACE: Final = 5
TOLERATED_DRIFT: Final = 0.02  # of the remaining epochs; less is noise
LARGEST_WARMUP_SHARE: Final = 10  # a rise of the learning rate takes at most a tenth of a training


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """What one iteration takes on this machine.

    Attributes:
        data_seconds: Making a batch in one process.
        forward_seconds: Computing outputs.
        backward_seconds: Loss, gradients and change of the weights.
        iteration_seconds: All of it, with batches made beside the network.
        validation_seconds: One iteration of validation.
    """

    data_seconds: float
    forward_seconds: float
    backward_seconds: float
    iteration_seconds: float
    validation_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a training is expected to take.

    Attributes:
        budget_seconds: What it may take; None: as long as it needs.
        training_seconds: All remaining epochs.
        reserved_seconds: For what follows: the validation of the held-out cases; None where it was not measured.
    """

    times: StepTimes
    schedule: Schedule
    budget_seconds: float | None
    training_seconds: float
    reserved_seconds: float | None

    @property
    def total_seconds(self) -> float:
        """Training and validation, as far as that was measured."""
        return self.training_seconds + (self.reserved_seconds or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Time for a training and what follows it.

    Attributes:
        seconds: From the moment `clock` had the value `start`.
        reserved_seconds: Of these, for what follows the training.
        clock: Seconds, monotonic.
    """

    seconds: float
    reserved_seconds: float
    start: float
    clock: Callable[[], float] = time.monotonic

    @property
    def remaining_seconds(self) -> float:
        """What is left for training."""
        return self.seconds - self.reserved_seconds - (self.clock() - self.start)


def lay_out_budget(plan: TrainingPlan, times: StepTimes, seconds: float) -> Schedule:
    """The longest training that fits, but never longer than planned.

    Short trainings get short epochs, so that there are about a hundred: iterations of training and of validation
    shrink alike.
    """
    per_planned_iteration = estimate_epoch_seconds(build_schedule(plan, epochs=1), times) / plan.iterations_per_epoch
    iterations = max(1, int(seconds / per_planned_iteration))
    per_epoch = min(plan.iterations_per_epoch, max(1, iterations // EPOCHS_OF_A_BUDGET))
    share = per_epoch / plan.iterations_per_epoch
    schedule = build_schedule(plan, epochs=1).model_copy(
        update={
            "iterations_per_epoch": per_epoch,
            "validation_iterations_per_epoch": max(1, round(plan.validation_iterations_per_epoch * share)),
        }
    )
    possible = max(1, int(seconds / estimate_epoch_seconds(schedule, times)))
    epochs = min(possible, count_planned_epochs(plan, schedule))
    warmup = min(plan.warmup_iterations, epochs * per_epoch // LARGEST_WARMUP_SHARE)
    return schedule.model_copy(update={"end_epoch": epochs, "warmup_iterations": warmup})


def count_planned_epochs(plan: TrainingPlan, schedule: Schedule) -> int:
    """How many epochs of a schedule make the iterations that are planned."""
    return -(-plan.epochs * plan.iterations_per_epoch // schedule.iterations_per_epoch)


def estimate_epoch_seconds(schedule: Schedule, times: StepTimes) -> float:
    """Training and validation iterations of one epoch."""
    return (
        schedule.iterations_per_epoch * times.iteration_seconds
        + schedule.validation_iterations_per_epoch * times.validation_seconds
    )


def adapt_to_pace(
    schedule: Schedule, *, next_epoch: int, last_epoch: int, epoch_seconds: Sequence[float], remaining_seconds: float
) -> Schedule:
    """The schedule that ends when the remaining seconds do, judged by the last epochs; the same one if it does so.

    The learning rate goes on from where it is and reaches its end in time.

    Args:
        last_epoch: The latest end, however much time there is.
        epoch_seconds: What past epochs took, at least one.
    """
    if schedule.end_epoch is None or next_epoch >= schedule.end_epoch:
        return schedule
    pace = fmean(epoch_seconds[-EPOCHS_THAT_TELL_THE_PACE:])
    planned = schedule.end_epoch - next_epoch
    possible = min(last_epoch - next_epoch, max(0, round(remaining_seconds / pace)))
    if abs(possible - planned) <= max(1, TOLERATED_DRIFT * planned) and possible > 0:
        return schedule
    return schedule.end_at(next_epoch + possible, from_epoch=next_epoch)
