"""Describes schedule, forecast and epochs of a training in words."""

from typing import Final

from autoseg.plan.document import Plan
from autoseg.processes.progress import format_duration
from autoseg.training.budget.pace import Forecast
from autoseg.training.monitoring.history import EpochRecord
from autoseg.training.optimization.schedule import Schedule

PARAMETERS: Final = (
    "batch_size",
    "iterations_per_epoch",
    "optimizer",
    "initial_learning_rate",
    "weight_decay",
    "schedule",
)


def describe_schedule(schedule: Schedule) -> str:
    """Describes a schedule in one phrase."""
    per_epoch = f"of {schedule.iterations_per_epoch} iterations"
    if schedule.end_epoch is None:
        return f"epochs {per_epoch} until the validation no longer improves"
    if schedule.first_epoch == 0:
        return f"{schedule.end_epoch} epochs {per_epoch}"
    return f"from epoch {schedule.first_epoch + 1} on, {schedule.end_epoch} epochs {per_epoch} in all"


def describe_forecast(forecast: Forecast) -> str:
    """Describes measured times and the forecast in two lines."""
    times = forecast.times
    expected = f"training {format_duration(forecast.training_seconds)}"
    if forecast.reserved_seconds is None:
        expected += ", validation not counted"
    else:
        limit = "" if forecast.budget_seconds is None else f" of {format_duration(forecast.budget_seconds)}"
        expected += (
            f", validation {format_duration(forecast.reserved_seconds)}, "
            f"together {format_duration(forecast.total_seconds)}{limit}"
        )
    return (
        f"measured: {times.iteration_seconds:.3g} s per iteration (forward {times.forward_seconds:.3g} s, loss and "
        f"backward {times.backward_seconds:.3g} s; a batch of patches {times.data_seconds:.3g} s, made beside it)\n"
        f"forecast: {expected}"
    )


def describe_epoch(record: EpochRecord, epochs: int | None) -> str:
    """Describes an epoch in one line."""
    total = "" if epochs is None else f"/{epochs}"
    volumes = "" if record.volume_dice is None else f", Dice of whole volumes {record.volume_dice:.3f}"
    dice = "-" if record.mean_pseudo_dice is None else f"{record.mean_pseudo_dice:.3f}"
    accuracy = record.discriminator_accuracy
    further = volumes if accuracy is None else f"{volumes}, discriminator accuracy {accuracy:.3f}"
    average = "-" if record.moving_average is None else f"{record.moving_average:.3f}"
    losses = " / ".join("-" if x is None else f"{x:.3f}" for x in (record.train_loss, record.validation_loss))
    return (
        f"epoch {record.epoch + 1}{total}: loss {losses} (training / validation), pseudo Dice {dice} "
        f"(moving average {average}){further}, {record.seconds:.0f} s, {record.seconds_per_iteration:.2f} s/iteration"
    )


def list_parameters(plan: Plan, configuration: str) -> dict[str, str | int | float]:
    """Lists the parameters that distinguish a training from others, for trackers."""
    training = plan.configurations[configuration].training
    described = {"dataset": plan.dataset_name, "planner": plan.planner, "configuration": configuration}
    return described | {name: getattr(training, name) for name in PARAMETERS}
