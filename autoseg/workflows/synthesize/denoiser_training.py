"""Trains the denoiser of a fold by the ordinary machinery of training."""

import math
import time
from collections.abc import Iterator
from typing import Final

import numpy as np

from autoseg.dataset.folds import Fold
from autoseg.plan.objectives import ChannelRange
from autoseg.preprocessing.cache import open_case
from autoseg.processes.progress import Progress
from autoseg.processes.signals import StopRequest
from autoseg.runtime.precision import find_dtype
from autoseg.training.budget.pace import Budget, Forecast
from autoseg.training.data.training_data import TrainingData
from autoseg.training.monitoring.events import EpochDone, Event, IterationDone
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import Length, TrainingOptions
from autoseg.training.trainer import train
from autoseg.workflows.folds.synthesis import SynthesisPlan
from autoseg.workflows.synthesize.job import SynthesisJob
from autoseg.workflows.synthesize.request import SynthesisRequest
from autoseg.workflows.train.fold_options import compute_loader_count, find_newest_checkpoint
from autoseg.workflows.train.report import describe_forecast

SMALLEST_STD: Final = 1e-6  # of a channel that shows anything


def measure_ranges(job: SynthesisJob) -> tuple[ChannelRange, ...]:
    """Measures the intensities of the channels of the training cases.

    Raises:
        RunError: A case is missing or damaged.
    """
    sums, squares, count = 0.0, 0.0, 0
    lowest, highest = math.inf, -math.inf
    for name in job.cases.training:
        image = np.asarray(open_case(job.data_folder, name).image[:], dtype=np.float64)
        flat = image.reshape(len(image), -1)
        sums, squares, count = sums + flat.sum(1), squares + (flat**2).sum(1), count + flat.shape[1]
        lowest, highest = np.minimum(lowest, flat.min(1)), np.maximum(highest, flat.max(1))
    means = sums / count
    stds = np.sqrt(np.maximum(squares / count - means**2, 0))
    return tuple(
        ChannelRange(mean=mean, std=std if std > SMALLEST_STD else 1.0, lowest=low, highest=high)
        for mean, std, low, high in np.stack([means, stds, lowest, highest], axis=1).tolist()
    )


def train_denoiser(
    job: SynthesisJob, plan: SynthesisPlan, request: SynthesisRequest, *, progress: Progress, stop: StopRequest
) -> None:
    """Trains the denoiser, or continues its training; it sees the training cases of the fold alone, also where an
    ordinary training is validated.

    Raises:
        TrainingError: The training cannot be continued, or failed.
    """
    data = TrainingData(
        labels=job.plan.labels,
        channels=job.plan.channels,
        folder=job.data_folder,
        fold=Fold(training=job.cases.training, validation=job.cases.training),
    )
    options = _build_options(job, request, progress=progress, stop=stop)
    with stop.handle_signals():
        events = train(plan.denoiser, data, output=job.folder.denoiser, options=options)
        first = next(events, None)
        if first is None:
            progress.note(f"{job.name}: the denoiser is already trained (--restart trains anew)")
            return
        if isinstance(first, Forecast):
            progress.note(describe_forecast(first))
        schedule = first.schedule if isinstance(first, Forecast) else first
        assert isinstance(schedule, Schedule), "a training begins with its schedule"
        total = _count_steps(job, schedule)
        for _ in progress.track(_note_epochs(events, progress), label=job.name, total=total, unit="iteration"):
            pass


def _note_epochs(events: Iterator[Event], progress: Progress) -> Iterator[IterationDone]:
    for event in events:
        if isinstance(event, IterationDone):
            yield event
        elif isinstance(event, EpochDone) and event.record.train_loss is not None:
            end = "" if event.schedule.end_epoch is None else f" of {event.schedule.end_epoch}"
            progress.note(f"epoch {event.record.epoch + 1}{end}: loss {event.record.train_loss:.4f}")


def _count_steps(job: SynthesisJob, schedule: Schedule) -> int:
    checkpoint = find_newest_checkpoint(job.folder.denoiser)
    epochs_done, iterations_done = (0, 0) if checkpoint is None else checkpoint.reached
    per_epoch = schedule.iterations_per_epoch + schedule.validation_iterations_per_epoch
    return max(0, ((schedule.end_epoch or 0) - epochs_done) * per_epoch - iterations_done)


def _build_options(
    job: SynthesisJob, request: SynthesisRequest, *, progress: Progress, stop: StopRequest
) -> TrainingOptions:
    seconds = request.budget_seconds
    return TrainingOptions(
        device=job.device,
        seed=job.seed,
        workers=compute_loader_count(job.device.type) if request.workers is None else request.workers,
        length=Length(epochs=request.epochs),
        budget=None if seconds is None else Budget(seconds=seconds, reserved_seconds=0.0, start=time.monotonic()),
        dtype=find_dtype(job.device, "auto"),
        announce=progress.note,
        title=f"{job.name}, denoiser",
        stop=stop,
    )
