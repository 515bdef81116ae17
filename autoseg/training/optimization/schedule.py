"""The schedule of a training: its epochs and its learning rate.

A schedule describes the rest of a training from one epoch on. It is replaced, never changed: by a longer or shorter
one when the pace of the machine differs from the forecast, by one with a new warm-up when a finished training is
extended, by one that ends when the validation no longer improves.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from autoseg.document import Part
from autoseg.plan.training import (
    ConstantSchedule,
    CosineSchedule,
    PlateauSchedule,
    PolynomialSchedule,
    TrainingPlan,
)
from autoseg.training.data.randomness import Phase

Measurements = Sequence[float | None]

ROUNDING: Final = 1e-9  # of shares of a training
EXTENSION_PEAK: Final = 0.5
"""Fraction of the initial learning rate to which an extension warms up: enough to leave the minimum that was reached,
too little to unlearn what led there (compare the warm restarts of Loshchilov and Hutter 2017, arXiv:1608.03983)."""


class Schedule(Part):
    """The rest of a training from `first_epoch` on.

    Attributes:
        first_epoch: First epoch of this schedule; epochs before it followed another one.
        end_epoch: First epoch that is not trained; None to train until the validation no longer improves, with a
            constant learning rate.
        first_progress: Progress of the decay of the learning rate at `first_epoch`.
        peak: Factor on the planned learning rate.
        warmup_iterations: Iterations over which the learning rate rises, counted from `warmup_epoch`.
        warmup_epoch: Epoch of the start of the warm-up; before `first_epoch` if an earlier schedule started it.
    """

    iterations_per_epoch: Annotated[int, Field(ge=1)]
    validation_iterations_per_epoch: Annotated[int, Field(ge=1)]
    first_epoch: Annotated[int, Field(ge=0)] = 0
    end_epoch: int | None
    first_progress: Annotated[float, Field(ge=0, le=1)] = 0.0
    peak: Annotated[float, Field(gt=0, le=1)] = 1.0
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    warmup_epoch: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> "Schedule":
        if self.end_epoch is not None and self.end_epoch < self.first_epoch:
            msg = f"end_epoch must not lie before first_epoch, {self.first_epoch} (got {self.end_epoch})"
            raise ValueError(msg)
        return self

    def compute_progress(self, epoch: float | int) -> float:
        """Computes the progress of the decay of the learning rate at an epoch, which may be fractional."""
        if self.end_epoch is None or self.end_epoch == self.first_epoch:
            return self.first_progress
        done = (epoch - self.first_epoch) / (self.end_epoch - self.first_epoch)
        return self.first_progress + (1 - self.first_progress) * done

    def end_at(self, end_epoch: int, *, from_epoch: int) -> "Schedule":
        """Returns a schedule that decays from the state at `from_epoch` to 0 at `end_epoch`."""
        progress = self.compute_progress(from_epoch)
        return self.model_copy(
            update={"first_epoch": from_epoch, "end_epoch": end_epoch, "first_progress": min(1.0, max(0.0, progress))}
        )

    def extend(self, epochs: int, *, from_epoch: int) -> "Schedule":
        """Returns a schedule of more epochs after a finished training: one epoch of warm-up to half the rate, decay."""
        return self.model_copy(
            update={
                "first_epoch": from_epoch,
                "end_epoch": from_epoch + epochs,
                "first_progress": 0.0,
                "peak": EXTENSION_PEAK,
                "warmup_iterations": self.iterations_per_epoch,
                "warmup_epoch": from_epoch,
            }
        )


def build_schedule(plan: TrainingPlan, *, epochs: int | None) -> Schedule:
    """Builds the schedule of so many planned epochs; None to train until the validation no longer improves."""
    return Schedule(
        iterations_per_epoch=plan.iterations_per_epoch,
        validation_iterations_per_epoch=plan.validation_iterations_per_epoch,
        end_epoch=epochs,
        warmup_iterations=plan.warmup_iterations,
    )


def compute_learning_rate(
    plan: TrainingPlan, schedule: Schedule, *, epoch: int, iteration: int, measurements: Measurements = ()
) -> float:
    """Computes the learning rate of one iteration by the rule of `TrainingPlan.schedule`.

    Args:
        measurements: Mean pseudo Dice of each finished epoch.
    """
    position = epoch + iteration / schedule.iterations_per_epoch
    decay = DECAYS[plan.schedule.name](plan.schedule, schedule, position, measurements)
    since_rise = (epoch - schedule.warmup_epoch) * schedule.iterations_per_epoch + iteration
    rise = min(1.0, (since_rise + 1) / (schedule.warmup_iterations + 1))
    return plan.initial_learning_rate * schedule.peak * rise * decay


def find_phase(plan: TrainingPlan, schedule: Schedule, epoch: int) -> Phase:
    """Finds whether patches are still changed by all transforms in an epoch (`augmentation_end_fraction`), and whether
    synthetic cases still train (`synthetic_end_fraction`)."""
    rest = 1 - schedule.compute_progress(epoch)
    is_augmented, takes_synthetic = (
        fraction == 0 or rest > fraction + ROUNDING
        for fraction in (plan.augmentation_end_fraction, plan.synthetic_end_fraction)
    )
    return Phase(is_augmented=is_augmented, takes_synthetic=takes_synthetic)


def _decay_polynomially(
    rule: PolynomialSchedule, schedule: Schedule, position: float, measurements: Measurements
) -> float:
    del measurements
    return float((1 - schedule.compute_progress(math.floor(position))) ** rule.exponent)


def _decay_as_cosine(rule: CosineSchedule, schedule: Schedule, position: float, measurements: Measurements) -> float:
    del rule, measurements
    return (1 + math.cos(math.pi * schedule.compute_progress(position))) / 2


def _keep_constant(rule: ConstantSchedule, schedule: Schedule, position: float, measurements: Measurements) -> float:
    del rule, schedule, position, measurements
    return 1.0


def _reduce_on_plateau(rule: PlateauSchedule, schedule: Schedule, position: float, measurements: Measurements) -> float:
    del position
    return float(rule.factor ** count_reductions(rule, measurements[schedule.warmup_epoch :]))


def count_reductions(rule: PlateauSchedule, measurements: Measurements) -> int:
    """Counts how often the learning rate has been reduced; epochs without a measurement count neither way."""
    best, waited, reductions = -math.inf, 0, 0
    for measurement in measurements:
        if measurement is None:
            continue
        if measurement > best + rule.smallest_improvement:
            best, waited = measurement, 0
        else:
            waited += 1
        if waited > rule.patience_epochs:
            waited, reductions = 0, reductions + 1
    return reductions


DECAYS: Final[dict[str, Callable[[Any, Schedule, float, Measurements], float]]] = {
    "polynomial": _decay_polynomially,
    "cosine": _decay_as_cosine,
    "constant": _keep_constant,
    "on_plateau": _reduce_on_plateau,
}
