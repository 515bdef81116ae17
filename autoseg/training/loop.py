"""The training of one configuration on one fold, from the first epoch or the last checkpoint to the final one."""

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from autoseg.errors import DeviceError, TrainingError
from autoseg.labels import LabelScheme
from autoseg.plan import ChannelPlan, ConfigurationPlan, TrainingPlan
from autoseg.run_folder import FoldFolder
from autoseg.training.batch_making import build_source, make_batches
from autoseg.training.batches import dead_workers_reported, list_batch_keys
from autoseg.training.checkpoint import (
    TrainingIdentity,
    check_identity,
    identify_training,
    read_checkpoint,
    read_description,
    restore_learner,
    write_checkpoint,
)
from autoseg.training.event_files import open_event_files, write_events
from autoseg.training.folds import Fold
from autoseg.training.history import EpochRecord, append_to_training_log, write_training_log
from autoseg.training.progress_picture import write_progress_picture
from autoseg.training.pseudo_dice import compute_mean_dice, compute_pseudo_dice, update_moving_average
from autoseg.training.randomness import Stream
from autoseg.training.schedule import compute_learning_rate
from autoseg.training.step import (
    Batch,
    Learner,
    ValidationOutcome,
    build_learner,
    run_training_step,
    run_validation_step,
)

# Half precision overflows now and then; the scaler then skips the step. More in a row than it needs to find its range
# (65536 = 2**16 halvings) mean that the weights themselves are lost.
TOLERATED_OVERFLOWS: Final = 20
EPOCHS_BETWEEN_CHECKPOINTS: Final = 50  # at most; as in the reference implementation


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Where and how long to train.

    Attributes:
        seed: 0 or more; with the plan and the fold it decides about everything random.
        epochs: In place of the plan's number; the learning rate falls accordingly.
        workers: Processes that prepare patches; 0 prepares them between the steps.
        seconds_between_checkpoints: After an epoch, the state is saved if the last time is longer ago, so that an
            interruption costs little, and short epochs are not spent on saving.
    """

    device: torch.device
    seed: int
    workers: int
    epochs: int | None = None
    seconds_between_checkpoints: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationDone:
    """One batch has passed; both streams are counted from 0 in every epoch."""

    epoch: int
    stream: Stream
    iteration: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """An epoch is over and in the log."""

    record: EpochRecord


def train(
    plan: ConfigurationPlan,
    labels: LabelScheme,
    channels: Sequence[ChannelPlan],
    *,
    data_folder: Path,
    fold: Fold,
    output: FoldFolder,
    options: TrainingOptions,
) -> Iterator[IterationDone | EpochDone]:
    """Trains and yields what happens, while it happens.

    Continues from the latest checkpoint of `output`; yields nothing if the final one exists. May be closed at any
    time: the latest checkpoint stays valid.

    Args:
        data_folder: Preprocessed cases of the configuration `plan.data_of`.

    Raises:
        TrainingError: The configuration cannot be trained, the checkpoint does not belong to this training, the loss
            is lost, or a worker has died.
        DeviceError: The device's memory does not hold the network and a batch.
        RunError: A preprocessed case is missing or damaged, or the disk is full.
    """
    check_trainable(plan)
    epochs = options.epochs or plan.training.epochs
    identity = identify_training(plan, labels, channels, fold=fold, epochs=epochs, seed=options.seed)
    if output.final_checkpoint.exists():
        check_identity(output.final_checkpoint, read_description(output.final_checkpoint).identity, identity)
        output.latest_checkpoint.unlink(missing_ok=True)
        return
    learner = build_learner(plan, labels, device=options.device, seed=options.seed)
    session = _Session(plan=plan.training, learner=learner, identity=identity, output=output)
    session.resume()
    torch.backends.cudnn.benchmark = True  # all batches have one shape, so looking for its fastest kernels pays
    source = build_source(plan, channels, data_folder=data_folder, fold=fold, seed=options.seed, device=options.device)
    keys = list_batch_keys(plan.training, range(len(session.history), epochs))
    batches = make_batches(source, keys, workers=options.workers, device=options.device)
    with _failures_reported(options.device), dead_workers_reported():
        yield from session.run(batches, options.seconds_between_checkpoints)


def check_trainable(plan: ConfigurationPlan) -> None:
    """Checks what training cannot do yet.

    Raises:
        TrainingError: The configuration needs predictions of another one.
    """
    if plan.previous_stage is not None:
        msg = (
            f"this configuration refines the predictions of {plan.previous_stage!r}, and training such a second stage "
            f"of a cascade is not available yet; train another configuration of the plan"
        )
        raise TrainingError(msg)


@dataclass(slots=True, kw_only=True)
class _Timer:
    """Seconds since its start, and how many of them were spent waiting for batches."""

    start: float = field(default_factory=time.perf_counter)
    waited_seconds: float = 0.0

    def take(self, batches: Iterator[Batch]) -> Batch:
        begin = time.perf_counter()
        batch = next(batches)
        self.waited_seconds += time.perf_counter() - begin
        return batch

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start


@dataclass(slots=True, kw_only=True)
class _Session:
    """A training that runs."""

    plan: TrainingPlan
    learner: Learner
    identity: TrainingIdentity
    output: FoldFolder
    history: list[EpochRecord] = field(default_factory=list)
    overflows_in_a_row: int = 0

    def resume(self) -> None:
        """Takes up the latest checkpoint, if there is one, and makes the log agree with it."""
        if self.output.latest_checkpoint.exists():
            checkpoint = read_checkpoint(self.output.latest_checkpoint)
            check_identity(checkpoint.path, checkpoint.description.identity, self.identity)
            restore_learner(checkpoint, self.learner)
            self.history = list(checkpoint.description.history)
        write_training_log(self.output.training_log, self.history)

    def run(self, batches: Iterator[Batch], seconds_between_checkpoints: float) -> Iterator[IterationDone | EpochDone]:
        """Runs all remaining epochs; the final checkpoint is there when the last one is reported."""
        saved = _Timer()
        with open_event_files(self.output.tensorboard, first_epoch=len(self.history)) as events:
            for epoch in range(len(self.history), self.identity.epochs):
                record = yield from self._run_epoch(epoch, batches)
                self._keep_record(record)
                write_events(events, record, self.learner.labels.class_names)
                if epoch + 1 == self.identity.epochs:
                    self._finish()
                elif saved.seconds >= seconds_between_checkpoints or (epoch + 1) % EPOCHS_BETWEEN_CHECKPOINTS == 0:
                    self._save(self.output.latest_checkpoint, with_optimizer=True)
                    write_progress_picture(self.output.progress_picture, self.history)
                    saved = _Timer()
                yield EpochDone(record=record)

    def _finish(self) -> None:
        write_progress_picture(self.output.progress_picture, self.history)
        self._save(self.output.final_checkpoint, with_optimizer=False)
        self.output.latest_checkpoint.unlink(missing_ok=True)

    def _run_epoch(self, epoch: int, batches: Iterator[Batch]) -> Generator[IterationDone, None, EpochRecord]:
        timer = _Timer()
        learning_rate = compute_learning_rate(
            self.plan.initial_learning_rate,
            epoch=epoch,
            epochs=self.identity.epochs,
            exponent=self.plan.schedule_exponent,
        )
        self.learner.set_learning_rate(learning_rate)
        train_losses = yield from self._run_training(epoch, batches, timer)
        seconds_per_iteration = timer.seconds / self.plan.iterations_per_epoch
        outcomes = yield from self._run_validation(epoch, batches, timer)
        dice = compute_pseudo_dice([outcome.counts for outcome in outcomes])
        mean = compute_mean_dice(dice)
        return EpochRecord(
            epoch=epoch,
            learning_rate=learning_rate,
            train_loss=_compute_finite_mean(train_losses),
            validation_loss=_compute_finite_mean([outcome.loss for outcome in outcomes]),
            pseudo_dice=dice,
            mean_pseudo_dice=mean,
            moving_average=update_moving_average(self.history[-1].moving_average if self.history else None, mean),
            seconds=timer.seconds,
            seconds_per_iteration=seconds_per_iteration,
            data_wait_seconds=timer.waited_seconds,
        )

    def _run_training(
        self, epoch: int, batches: Iterator[Batch], timer: _Timer
    ) -> Generator[IterationDone, None, list[float]]:
        self.learner.network.train()
        losses = []
        for iteration in range(self.plan.iterations_per_epoch):
            losses.append(run_training_step(self.learner, timer.take(batches)))
            self._check_loss(losses[-1], epoch, iteration)
            yield IterationDone(epoch=epoch, stream="training", iteration=iteration, loss=losses[-1])
        return losses

    def _run_validation(
        self, epoch: int, batches: Iterator[Batch], timer: _Timer
    ) -> Generator[IterationDone, None, list[ValidationOutcome]]:
        self.learner.network.eval()
        outcomes = []
        for iteration in range(self.plan.validation_iterations_per_epoch):
            outcomes.append(run_validation_step(self.learner, timer.take(batches)))
            yield IterationDone(epoch=epoch, stream="validation", iteration=iteration, loss=outcomes[-1].loss)
        return outcomes

    def _check_loss(self, loss: float, epoch: int, iteration: int) -> None:
        self.overflows_in_a_row = 0 if math.isfinite(loss) else self.overflows_in_a_row + 1
        if self.overflows_in_a_row <= (TOLERATED_OVERFLOWS if self.learner.scaler.is_enabled() else 0):
            return
        msg = (
            f"the loss is {loss} in epoch {epoch}, iteration {iteration}: training has diverged; look for extreme or "
            f"non-finite intensities in the images, or lower training.initial_learning_rate in plan.json and begin "
            f"again with --restart; the checkpoints of earlier epochs in {self.output.root} are kept"
        )
        raise TrainingError(msg)

    def _keep_record(self, record: EpochRecord) -> None:
        """Adds the epoch to the history and the log; a new best moving average is worth a checkpoint of its own."""
        averages = [old.moving_average for old in self.history if old.moving_average is not None]
        self.history.append(record)
        append_to_training_log(self.output.training_log, record)
        if record.moving_average is not None and record.moving_average > max(averages, default=-1.0):
            self._save(self.output.best_checkpoint, with_optimizer=False)

    def _save(self, path: Path, *, with_optimizer: bool) -> None:
        write_checkpoint(
            path, self.learner, identity=self.identity, history=self.history, with_optimizer=with_optimizer
        )


@contextmanager
def _failures_reported(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        msg = (
            f"{device} has too little memory for the planned network and batch; close what else uses it, "
            f"or plan for less with: autoseg plan --memory-gb"
        )
        raise DeviceError(msg) from error


def _compute_finite_mean(losses: Sequence[float]) -> float | None:
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else None
