"""Fits a training into a time budget, and adapts it when the measured pace differs from the forecast."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from autoseg.plan.training import TrainingPlan
from autoseg.processes.progress import format_duration
from autoseg.training.optimization.schedule import Schedule, build_schedule

EPOCHS_OF_A_BUDGET: Final = 100  # enough to adapt to the pace and to lower the learning rate in small steps
FEWEST_ITERATIONS_PER_EPOCH: Final = 25
"""A tenth of the usual epoch. Saving, plotting and logging then take little time in comparison, and the fewest
iterations that a budget is accepted for (150 by a lite plan) are still six epochs, after each of which the pace is
checked."""
SHORTEST_EPOCH_SECONDS: Final = 2.0
"""On a GPU an epoch of 25 iterations may take half a second: saving, plotting and logging take as long (guess)."""
FEWEST_VALIDATION_ITERATIONS: Final = 4  # forward passes alone: about a twentieth of an epoch of 25 iterations
SECONDS_THAT_TELL_A_PACE: Final = 10.0
"""Shorter epochs are taken together: where some take twice as long as others, as saving is part of them, their median
jumps from one to the other, and the schedule with it."""
MOST_EPOCHS_TAKEN_TOGETHER: Final = 4
EPOCHS_THAT_TELL_THE_PACE: Final = 9
EXPECTED_EPOCHS: Final = 2
"""Epochs at the pace of the forecast that precede the measured ones, so that a single slow epoch has no effect, but
three have."""
EPOCHS_BETWEEN_LAYOUTS: Final = 5
SHARE_BETWEEN_LAYOUTS: Final = 0.1  # of the epochs that a training will have at the present pace, where that is more
"""On a machine with other load the pace varies by more than is tolerated; it is followed at once only near the end."""
TOLERATED_DRIFT: Final = 0.1  # fraction of the remaining time
TOLERATED_SHARE: Final = 0.01
"""Fraction of the whole training that a schedule may be off in any case: near the end a tenth of what remains is less
than the pace varies, and every epoch would have a schedule of its own."""
LARGEST_WARMUP_SHARE: Final = 10  # a rise of the learning rate takes at most a tenth of a training


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Duration of one iteration on this machine.

    Attributes:
        data_seconds: Making a batch in one process.
        forward_seconds: The forward pass.
        backward_seconds: Loss, backward pass and optimizer step.
        iteration_seconds: A whole iteration, with batches made in the background.
        validation_seconds: One iteration of validation.
    """

    data_seconds: float
    forward_seconds: float
    backward_seconds: float
    iteration_seconds: float
    validation_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Expected duration of a training.

    Attributes:
        budget_seconds: Time budget; None if there is no limit.
        training_seconds: Duration of all remaining epochs.
        reserved_seconds: Duration of the validation of the held-out cases afterwards; None if it was not measured.
    """

    times: StepTimes
    schedule: Schedule
    budget_seconds: float | None
    training_seconds: float
    reserved_seconds: float | None

    @property
    def total_seconds(self) -> float:
        """Duration of training and, if measured, validation."""
        return self.training_seconds + (self.reserved_seconds or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Time budget of a training and its validation.

    Attributes:
        seconds: Budget from the moment when `clock` had the value `start`.
        reserved_seconds: The part of the budget for the validation after the training.
        clock: Monotonic clock in seconds.
    """

    seconds: float
    reserved_seconds: float
    start: float
    clock: Callable[[], float] = time.monotonic

    @property
    def remaining_seconds(self) -> float:
        """Remaining time for training."""
        return self.seconds - self.reserved_seconds - (self.clock() - self.start)


def schedule_within_budget(plan: TrainingPlan, times: StepTimes, seconds: float) -> Schedule:
    """Returns the schedule of the longest training within a budget, which is never longer than planned.

    Short trainings get short epochs, about a hundred of them, or fewer of `FEWEST_ITERATIONS_PER_EPOCH`. No epoch has
    fewer, even if the time does not seem to hold one: a machine that is measured while it warms up soon trains many
    more, and epochs keep their length.
    """
    fewest = min(plan.iterations_per_epoch, FEWEST_ITERATIONS_PER_EPOCH)
    most = int(seconds / max(SHORTEST_EPOCH_SECONDS, estimate_epoch_seconds(shorten_epochs(plan, fewest), times)))
    wanted = min(EPOCHS_OF_A_BUDGET, max(1, most))
    fitting = (
        shortened
        for iterations in range(plan.iterations_per_epoch, fewest, -1)
        if wanted * estimate_epoch_seconds(shortened := shorten_epochs(plan, iterations), times) <= seconds
    )
    schedule = next(fitting, shorten_epochs(plan, fewest))
    possible = max(1, int(seconds / estimate_epoch_seconds(schedule, times)))
    epochs = min(possible, count_planned_epochs(plan, schedule))
    warmup = min(plan.warmup_iterations, epochs * schedule.iterations_per_epoch // LARGEST_WARMUP_SHARE)
    return schedule.model_copy(update={"end_epoch": epochs, "warmup_iterations": warmup})


def reschedule_remaining(
    plan: TrainingPlan, schedule: Schedule, times: StepTimes, seconds: float, *, epochs_done: int
) -> Schedule:
    """Returns the schedule of the rest of a training, at least one epoch, that ends in time or as planned.

    Args:
        schedule: The previous schedule; its epochs keep their length.
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
    """Returns a schedule of one epoch with so many iterations, and proportionally fewer for validation."""
    planned = plan.validation_iterations_per_epoch
    in_proportion = round(planned * iterations / plan.iterations_per_epoch)
    validation = min(planned, max(FEWEST_VALIDATION_ITERATIONS, in_proportion))
    return build_schedule(plan, epochs=1).model_copy(
        update={"iterations_per_epoch": iterations, "validation_iterations_per_epoch": validation}
    )


def count_iterations(schedule: Schedule) -> int | None:
    """Counts the training iterations of a schedule; None if its end is not known."""
    return None if schedule.end_epoch is None else schedule.end_epoch * schedule.iterations_per_epoch


def count_planned_epochs(plan: TrainingPlan, schedule: Schedule) -> int:
    """Counts the epochs of a schedule for the planned iterations."""
    return -(-plan.epochs * plan.iterations_per_epoch // schedule.iterations_per_epoch)


def estimate_epoch_seconds(schedule: Schedule, times: StepTimes) -> float:
    """Estimates the duration of one epoch."""
    return (
        schedule.iterations_per_epoch * times.iteration_seconds
        + schedule.validation_iterations_per_epoch * times.validation_seconds
    )


def estimate_pace(epoch_seconds: Sequence[float], *, expected_seconds: float) -> float:
    """Estimates the duration of an epoch by the median of the last ones, starting from the forecast.

    Once there are more than `EXPECTED_EPOCHS` groups of up to `MOST_EPOCHS_TAKEN_TOGETHER` short epochs, each group
    counts with its mean.
    """
    groups = _group_epochs(epoch_seconds)
    known = groups if len(groups) > EXPECTED_EPOCHS else [*[expected_seconds] * EXPECTED_EPOCHS, *epoch_seconds]
    return median(known[-EPOCHS_THAT_TELL_THE_PACE:])


def _group_epochs(epoch_seconds: Sequence[float]) -> list[float]:
    """Returns the mean duration of epochs in groups that are long enough; the first ones may be left out."""
    means: list[float] = []
    group: list[float] = []
    for seconds in reversed(epoch_seconds):
        group.append(seconds)
        if sum(group) >= SECONDS_THAT_TELL_A_PACE or len(group) == MOST_EPOCHS_TAKEN_TOGETHER:
            means.append(sum(group) / len(group))
            group = []
    return means[::-1]


def adapt_to_pace(
    schedule: Schedule, *, next_epoch: int, last_epoch: int, epoch_seconds: float, remaining_seconds: float
) -> Schedule:
    """Returns a schedule that ends with the remaining time.

    The schedule is unchanged if it does so within a tenth of the time or a hundredth of the training, or is only a few
    epochs, or a tenth of the training at the present pace, old and not yet ending. The learning rate continues from its
    present value.

    Args:
        last_epoch: The latest end, whatever the remaining time.
        epoch_seconds: Duration of an epoch.
    """
    if schedule.end_epoch is None or next_epoch >= schedule.end_epoch:
        return schedule
    planned = (schedule.end_epoch - next_epoch) * epoch_seconds
    tolerated = TOLERATED_SHARE * schedule.end_epoch * epoch_seconds
    is_late = planned - remaining_seconds > max(TOLERATED_DRIFT * remaining_seconds, tolerated)
    is_early = remaining_seconds - planned > max(TOLERATED_DRIFT * planned, tolerated)
    is_urgent = is_late and remaining_seconds < EPOCHS_BETWEEN_LAYOUTS * epoch_seconds
    possible = min(schedule.end_epoch, next_epoch + remaining_seconds / epoch_seconds)
    is_fresh = next_epoch - schedule.first_epoch < max(EPOCHS_BETWEEN_LAYOUTS, SHARE_BETWEEN_LAYOUTS * possible)
    if not (is_late or is_early) or (is_fresh and not is_urgent):
        return schedule
    end = find_end(epoch_seconds, next_epoch=next_epoch, last_epoch=last_epoch, remaining_seconds=remaining_seconds)
    if is_early and end <= schedule.end_epoch:
        return schedule
    return schedule.end_at(end, from_epoch=next_epoch)


def find_end(epoch_seconds: float, *, next_epoch: int, last_epoch: int, remaining_seconds: float) -> int:
    """Computes the end of the last epoch that fits completely."""
    return min(last_epoch, next_epoch + max(0, int(remaining_seconds / epoch_seconds)))


def describe_insufficient_budget(
    schedule: Schedule, *, epochs_done: int, needed: int, epoch_seconds: float, expected_seconds: float
) -> str:
    """Explains that a budget does not suffice at the present pace, and what to do."""
    done = epochs_done * schedule.iterations_per_epoch
    more_seconds = (needed - done) * epoch_seconds / schedule.iterations_per_epoch
    return (
        f"the budget does not hold a tenth of the {needed:,} iterations that the plan needs at least: {done:,} are "
        f"trained, an epoch takes {epoch_seconds:.3g} s and was expected to take {expected_seconds:.3g} s (does "
        f"something else use this machine?); what is trained is kept, and continues with a --budget that leaves "
        f"{format_duration(more_seconds)} for training"
    )
