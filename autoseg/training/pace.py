"""Fits a training into a time budget, and adapts it when the measured pace differs from the forecast."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from autoseg.plan import TrainingPlan
from autoseg.progress import format_duration
from autoseg.training.schedule import Schedule, build_schedule

EPOCHS_OF_A_BUDGET: Final = 100  # so that pace and learning rate can follow the clock closely
FEWEST_ITERATIONS_PER_EPOCH: Final = 25
"""A tenth of the usual epoch. Saving, the picture and a line of the log then cost little beside it, and the fewest
iterations that a budget is accepted for (150 by a lite plan) still make six epochs, after each of which the clock is
looked at."""
FEWEST_VALIDATION_ITERATIONS: Final = 4  # forward passes alone: about a twentieth of an epoch of 25 iterations
EPOCHS_THAT_TELL_THE_PACE: Final = 9
EXPECTED_EPOCHS: Final = 2
"""As many epochs at the pace of the forecast count before the first real one, so that a single slow one decides
nothing and three do."""
EPOCHS_BETWEEN_LAYOUTS: Final = 5
"""On a restless machine the forecast sways by more than is tolerated; it is followed at once only near the end."""
TOLERATED_DRIFT: Final = 0.1  # of the time that is left
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

    Short trainings get short epochs, about a hundred of them, or fewer of `FEWEST_ITERATIONS_PER_EPOCH`.
    """
    fewest = min(plan.iterations_per_epoch, FEWEST_ITERATIONS_PER_EPOCH)
    most = int(seconds / estimate_epoch_seconds(shorten_epochs(plan, fewest), times))
    wanted = min(EPOCHS_OF_A_BUDGET, max(1, most))
    fitting = (
        shortened
        for iterations in range(plan.iterations_per_epoch, 0, -1)
        if wanted * estimate_epoch_seconds(shortened := shorten_epochs(plan, iterations), times) <= seconds
    )
    schedule = next(fitting, shorten_epochs(plan, 1))
    possible = max(1, int(seconds / estimate_epoch_seconds(schedule, times)))
    epochs = min(possible, count_planned_epochs(plan, schedule))
    warmup = min(plan.warmup_iterations, epochs * schedule.iterations_per_epoch // LARGEST_WARMUP_SHARE)
    return schedule.model_copy(update={"end_epoch": epochs, "warmup_iterations": warmup})


def lay_out_rest(
    plan: TrainingPlan, schedule: Schedule, times: StepTimes, seconds: float, *, epochs_done: int
) -> Schedule:
    """What is left of a training, at least an epoch, so that it ends in so many seconds or with the planned iterations.

    Args:
        schedule: Which the training followed before; its epochs keep their length.
    """
    epoch_seconds = estimate_epoch_seconds(schedule, times)
    end = find_end(
        epoch_seconds,
        next_epoch=epochs_done,
        last_epoch=max(count_planned_epochs(plan, schedule), schedule.end_epoch or 0),
        remaining_seconds=max(seconds, epoch_seconds),
    )
    return schedule.end_at(end, from_epoch=epochs_done)


def shorten_epochs(plan: TrainingPlan, iterations: int) -> Schedule:
    """One epoch of so many iterations; those of validation shrink alike, as long as they tell something."""
    planned = plan.validation_iterations_per_epoch
    in_proportion = round(planned * iterations / plan.iterations_per_epoch)
    validation = min(planned, max(FEWEST_VALIDATION_ITERATIONS, in_proportion))
    return build_schedule(plan, epochs=1).model_copy(
        update={"iterations_per_epoch": iterations, "validation_iterations_per_epoch": validation}
    )


def count_iterations(schedule: Schedule) -> int | None:
    """Of training, from the first epoch to the last; None while the end is not known."""
    return None if schedule.end_epoch is None else schedule.end_epoch * schedule.iterations_per_epoch


def count_planned_epochs(plan: TrainingPlan, schedule: Schedule) -> int:
    """How many epochs of a schedule make the iterations that are planned."""
    return -(-plan.epochs * plan.iterations_per_epoch // schedule.iterations_per_epoch)


def estimate_epoch_seconds(schedule: Schedule, times: StepTimes) -> float:
    """Training and validation iterations of one epoch."""
    return (
        schedule.iterations_per_epoch * times.iteration_seconds
        + schedule.validation_iterations_per_epoch * times.validation_seconds
    )


def judge_pace(epoch_seconds: Sequence[float], *, expected_seconds: float) -> float:
    """What an epoch takes: the median of the last ones, before which some took what the forecast says."""
    known = [*[expected_seconds] * EXPECTED_EPOCHS, *epoch_seconds]
    return median(known[-EPOCHS_THAT_TELL_THE_PACE:])


def adapt_to_pace(
    schedule: Schedule, *, next_epoch: int, last_epoch: int, epoch_seconds: float, remaining_seconds: float
) -> Schedule:
    """The schedule that ends when the remaining seconds do; the same one if it does so within a tenth of them, or is
    only a few epochs old and need not end yet.

    The learning rate goes on from where it is and reaches its end in time.

    Args:
        last_epoch: The latest end, however much time there is.
        epoch_seconds: What an epoch takes.
    """
    if schedule.end_epoch is None or next_epoch >= schedule.end_epoch:
        return schedule
    planned = (schedule.end_epoch - next_epoch) * epoch_seconds
    is_late = planned > (1 + TOLERATED_DRIFT) * remaining_seconds
    is_early = (1 + TOLERATED_DRIFT) * planned < remaining_seconds
    is_urgent = is_late and remaining_seconds < EPOCHS_BETWEEN_LAYOUTS * epoch_seconds
    is_fresh = next_epoch - schedule.first_epoch < EPOCHS_BETWEEN_LAYOUTS
    if not (is_late or is_early) or (is_fresh and not is_urgent):
        return schedule
    end = find_end(epoch_seconds, next_epoch=next_epoch, last_epoch=last_epoch, remaining_seconds=remaining_seconds)
    if is_early and end <= schedule.end_epoch:
        return schedule
    return schedule.end_at(end, from_epoch=next_epoch)


def find_end(epoch_seconds: float, *, next_epoch: int, last_epoch: int, remaining_seconds: float) -> int:
    """The epoch with which the last whole one that fits has ended."""
    return min(last_epoch, next_epoch + max(0, int(remaining_seconds / epoch_seconds)))


def describe_hopeless_pace(
    schedule: Schedule, *, epochs_done: int, needed: int, epoch_seconds: float, expected_seconds: float
) -> str:
    """Why a budget is of no use at the present pace, and what to do."""
    done = epochs_done * schedule.iterations_per_epoch
    more_seconds = (needed - done) * epoch_seconds / schedule.iterations_per_epoch
    return (
        f"the budget does not hold a tenth of the {needed:,} iterations that the plan needs at least: {done:,} are "
        f"trained, an epoch takes {epoch_seconds:.3g} s and was expected to take {expected_seconds:.3g} s (does "
        f"something else use this machine?); what is trained is kept, and goes on with a --budget that leaves "
        f"{format_duration(more_seconds)} for training"
    )
