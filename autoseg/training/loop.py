"""The loop over the epochs of one training, with everything that it writes."""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

import torch

from autoseg.errors import TrainingError
from autoseg.plan.training import TrainingPlan
from autoseg.run_folder import FoldFolder
from autoseg.training.budget.pace import (
    adapt_to_pace,
    count_iterations,
    count_planned_epochs,
    describe_insufficient_budget,
    estimate_pace,
)
from autoseg.training.budget.plateau import compute_annealing_epochs, has_reached_plateau, is_measurement_due
from autoseg.training.checkpoint import (
    read_checkpoint,
    restore_learner,
    restore_weights,
    write_network_checkpoint,
    write_resumable_checkpoint,
)
from autoseg.training.data.batch import Batch
from autoseg.training.data.randomness import derive_network_seed
from autoseg.training.learner import Learner
from autoseg.training.loop_state import LoopState, Start
from autoseg.training.monitoring.events import EpochDone, Event, IterationDone
from autoseg.training.monitoring.history import EpochRecord, PartialEpoch, write_training_log
from autoseg.training.monitoring.history_files import HistoryFiles
from autoseg.training.monitoring.late_losses import LateLosses
from autoseg.training.monitoring.pseudo_dice import (
    OverlapCounts,
    compute_mean_dice,
    compute_pseudo_dice,
    update_moving_average,
)
from autoseg.training.monitoring.timer import Timer
from autoseg.training.optimization.schedule import compute_learning_rate
from autoseg.training.options import TrainingOptions
from autoseg.training.step import launch_training_step, launch_validation_step
from autoseg.validation_conditions import is_hopeless

# Half precision overflows now and then; the scaler then skips the step. More in a row than it needs to find its range
# (65536 = 2**16 halvings) mean that the weights themselves are lost.
TOLERATED_OVERFLOWS: Final = 20
EPOCHS_BETWEEN_CHECKPOINTS: Final = 50  # at most; as in the reference implementation
STEPS_OF_A_BLOCK: Final[Mapping[str, int]] = {"cuda": 4}
"""By type of device, else 1. The losses of a block are read together, and processes that train together agree once a
block. A loss is known at most twice as many steps later, as many batches are in use."""
WHAT_A_STOP_WAITS_FOR: Final = "this iteration is over and the state of the training is saved"


@dataclass(slots=True, kw_only=True)
class TrainingLoop:
    """A running training.

    Attributes:
        expected_epoch_seconds: Forecast duration of an epoch; needed for a budget alone.
        find_faster: Builds a learner that trains faster than the present one; returns None where there is none yet.
        saved: Timer that runs since the state was last saved.
        saving_seconds: Duration of the last saving.
        files: Log, event files and picture.
    """

    plan: TrainingPlan
    state: LoopState
    output: FoldFolder
    options: TrainingOptions
    expected_epoch_seconds: float = 0.0
    find_faster: Callable[[], Learner | None] = lambda: None
    is_hopeless_pace_told: bool = False
    saved: Timer = field(default_factory=Timer)
    saving_seconds: float = 0.0
    files: HistoryFiles = field(init=False)
    overflows_in_a_row: int = 0

    def restore(self, start: Start) -> None:
        """Restores the state from the checkpoint, if there is one, and makes the log agree with it."""
        if start.checkpoint is not None:
            checkpoint = read_checkpoint(start.checkpoint)
            (restore_weights if start.is_extension else restore_learner)(checkpoint, self.state.learner)
            self.state.history = list(checkpoint.description.history)
            self.state.partial_epoch = checkpoint.description.partial_epoch
        if self.options.process_group.is_main_process:
            write_training_log(self.output.training_log, self.state.history)

    def run(self, batches: Iterator[Batch]) -> Iterator[Event]:
        """Runs all remaining epochs; the final checkpoint is there when the last one is reported.

        Raises:
            KeyboardInterrupt: Training was asked to end; its state is saved.
        """
        self.saved, begin = Timer(), self._read_clock()
        paces: list[float] = []
        self.files = self._build_files()
        with self.options.stop.postpone_stop(WHAT_A_STOP_WAITS_FOR):
            while not self._is_over():
                is_whole = self.state.partial_epoch is None
                record = yield from self._run_epoch(len(self.state.history), batches)
                self._keep_record(record)
                done = EpochDone(record=record, schedule=self.state.schedule)
                if is_whole:
                    paces.append(self._read_clock() - begin)
                self._replace_learner()
                begin = self._read_clock()
                replaced = self._adapt_schedule(paces)
                if self._is_over():
                    self._finish()
                elif self._is_saving_due():
                    self._save_latest()
                yield done
                if replaced and not self._is_over():
                    yield self.state.schedule

    def _replace_learner(self) -> None:
        """Replaces the learner by a faster one, if there is one, as if the training were resumed with it."""
        learner = None if self._is_over() else self.find_faster()
        if learner is None:
            return
        self._save_latest()
        restore_learner(read_checkpoint(self.output.latest_checkpoint), learner)
        self.state.learner = learner

    def _read_clock(self) -> float:
        """Returns the seconds that count for the budget."""
        return time.monotonic() if self.options.budget is None else self.options.budget.clock()

    def _build_files(self) -> HistoryFiles:
        return HistoryFiles(
            output=self.output,
            class_names=self.state.learner.labels.class_names,
            title=self.options.title,
            announce=self.options.announce,
            first_epoch=len(self.state.history),
        )

    def _is_over(self) -> bool:
        return self.state.schedule.end_epoch is not None and len(self.state.history) >= self.state.schedule.end_epoch

    def _is_saving_due(self) -> bool:
        return (
            self._has_passed(self.options.seconds_between_checkpoints)
            or len(self.state.history) % EPOCHS_BETWEEN_CHECKPOINTS == 0
        )

    def _is_partial_saving_due(self) -> bool:
        return self.options.process_group.is_main_process and self._has_passed(
            self.options.seconds_between_partial_checkpoints
        )

    def _has_passed(self, seconds: float) -> bool:
        """Returns whether so much time has passed since the state was saved, or more if saving is slow."""
        longest = self.saving_seconds * (1 / self.options.largest_saving_share - 1)
        return self.saved.seconds >= max(seconds, longest)

    def _adapt_schedule(self, paces: Sequence[float]) -> bool:
        """Replaces the schedule where time or validation require it; returns whether it changed."""
        before, done = self.state.schedule, len(self.state.history)
        longest = count_planned_epochs(self.plan, self.state.schedule)
        if self.state.schedule.end_epoch is None and (self._has_plateaued or done >= longest):
            self.state.schedule = self.state.schedule.end_at(done + compute_annealing_epochs(done), from_epoch=done)
        if self.options.budget is not None and paces:
            self._follow_clock(estimate_pace(paces, expected_seconds=self.expected_epoch_seconds))
        self.state.schedule = self.options.process_group.share(self.state.schedule)
        return self.state.schedule != before

    def _follow_clock(self, epoch_seconds: float) -> None:
        """Adapts the schedule to end in time; if that is too short to be of use, stops and keeps the state.

        Raises:
            TrainingError: The time is over, and has sufficed for next to nothing.
        """
        assert self.options.budget is not None, "only called for one"
        done = len(self.state.history)
        adapted = adapt_to_pace(
            self.state.schedule,
            next_epoch=done,
            last_epoch=max(count_planned_epochs(self.plan, self.state.schedule), self.state.schedule.end_epoch or 0),
            epoch_seconds=epoch_seconds,
            remaining_seconds=self.options.budget.remaining_seconds,
        )
        iterations, longest = count_iterations(adapted), count_iterations(self.state.schedule)
        needed = self.plan.sufficient_iterations
        if iterations is None or longest is None or needed is None:
            self.state.schedule = adapted
            return
        if iterations >= longest or not is_hopeless(iterations, needed):
            self.state.schedule = adapted
            return
        told = describe_insufficient_budget(
            self.state.schedule,
            epochs_done=done,
            needed=needed,
            epoch_seconds=epoch_seconds,
            expected_seconds=self.expected_epoch_seconds,
        )
        if adapted.end_epoch == done:
            self._save_latest()  # with the schedule as it was: the learning rate has not fallen for nothing
            msg = f"the time is over: {told}"
            raise TrainingError(msg)
        if not self.is_hopeless_pace_told:
            self.is_hopeless_pace_told = True
            self.options.announce(f"warning: at this pace {told}")

    @property
    def _has_plateaued(self) -> bool:
        return has_reached_plateau(
            [record.volume_dice for record in self.state.history if record.volume_dice is not None]
        )

    def _save_latest(self, partial_epoch: PartialEpoch | None = None) -> None:
        if not self.options.process_group.is_main_process:
            return
        timer = Timer()
        self.state.partial_epoch = partial_epoch
        write_resumable_checkpoint(self.output.latest_checkpoint, self.state)
        if partial_epoch is None:
            self.files.draw(self.state.history, self.state.schedule)
        self.saving_seconds, self.saved = timer.seconds, Timer()

    def _finish(self) -> None:
        if not self.options.process_group.is_main_process:
            return
        self.files.draw(self.state.history, self.state.schedule)
        write_network_checkpoint(self.output.final_checkpoint, self.state)
        self.output.latest_checkpoint.unlink(missing_ok=True)

    def _run_epoch(self, epoch: int, batches: Iterator[Batch]) -> Generator[IterationDone, None, EpochRecord]:
        begun, self.state.partial_epoch = self.state.partial_epoch, None
        timer = Timer() if begun is None else Timer.resume(begun)
        earlier = () if begun is None else begun.train_losses
        train_losses = yield from self._run_training(epoch, batches, timer, earlier)
        seconds_per_iteration = timer.seconds / self.state.schedule.iterations_per_epoch
        trained = timer.describe(train_losses)
        losses, counts = yield from self._run_validation(epoch, batches, timer)
        volume_dice = self._measure_volume_dice(epoch)
        if self._is_asked_to_stop():
            self._stop(trained)
        dice = compute_pseudo_dice(counts, self.state.learner.part)
        mean, history = compute_mean_dice(dice), self.state.history
        return EpochRecord(
            epoch=epoch,
            learning_rate=self._compute_rate(epoch, 0),
            train_loss=_compute_finite_mean(train_losses),
            validation_loss=_compute_finite_mean(losses),
            pseudo_dice=dice,
            mean_pseudo_dice=mean,
            moving_average=update_moving_average(history[-1].moving_average if history else None, mean),
            volume_dice=volume_dice,
            **self.state.learner.objective.summarize_epoch(),
            seconds=timer.seconds,
            seconds_per_iteration=seconds_per_iteration,
            data_wait_seconds=timer.waited_seconds,
        )

    def _measure_volume_dice(self, epoch: int) -> float | None:
        """Measures the Dice of the averaged weights, only while the end is open and no stop is requested."""
        measure, stop = self.options.measure_dice, self.options.stop
        has_end = self.state.schedule.end_epoch is not None
        if measure is None or has_end or not is_measurement_due(epoch) or stop.is_requested:
            return None
        self.state.learner.train(is_training=False)
        try:
            with self.state.learner.averaged_weights(), stop.allow_immediate_stop():
                return measure(self.state.learner.network)
        except KeyboardInterrupt:
            if not self.options.stop.is_requested:  # one that was not heard there
                raise
            return None

    def _is_asked_to_stop(self) -> bool:
        """Returns the same for all processes of the group, so that they stop in the same iteration."""
        return self.options.process_group.are_any(self.options.stop.is_requested)[0]

    def _ends_block(self, iteration: int, end: int) -> bool:
        """Returns whether processes that train together wait for each other after this step; one alone never waits."""
        return self.options.process_group.size == 1 or iteration + 1 == end or (iteration + 1) % self._block_steps == 0

    @property
    def _block_steps(self) -> int:
        return STEPS_OF_A_BLOCK.get(self.state.learner.device.type, 1)

    def _stop(self, reached: PartialEpoch) -> NoReturn:
        self._save_latest(reached)
        raise KeyboardInterrupt

    def _run_training(
        self, epoch: int, batches: Iterator[Batch], timer: Timer, earlier: Sequence[float | None]
    ) -> Generator[IterationDone, None, list[float]]:
        """Runs the rest of an epoch after the iterations of the given losses; returns the losses of all iterations."""
        self.state.learner.train()
        losses = [math.nan if loss is None else loss for loss in earlier]
        launched, told = LateLosses(read_together=self._block_steps), len(losses)
        end = self.state.schedule.iterations_per_epoch
        for iteration in range(len(losses), end):
            self.state.learner.set_learning_rate(self._compute_rate(epoch, iteration))
            self._set_progress(epoch, iteration)
            batch, rank = timer.take(batches), self.options.process_group.rank
            torch.manual_seed(derive_network_seed(self.options.seed, epoch=epoch, iteration=iteration, rank=rank))
            arrived = launched.add(launch_training_step(self.state.learner, batch))
            self._keep_losses(losses, arrived if iteration + 1 < end else [*arrived, *launched.read_all()], epoch)
            if self._ends_block(iteration, end):
                self._save_or_stop(losses, launched, epoch, timer=timer)
            for done in range(told, len(losses)):
                yield IterationDone(epoch=epoch, stream="training", iteration=done, loss=losses[done])
            told = len(losses)
        return losses

    def _save_or_stop(self, losses: list[float], launched: LateLosses, epoch: int, *, timer: Timer) -> None:
        """Saves the state within an epoch if that is due, and stops if that was asked for: in all processes alike."""
        stop = self.options.stop
        is_asked, is_due = self.options.process_group.are_any(stop.is_requested, self._is_partial_saving_due())
        if is_asked or is_due:
            self._keep_losses(losses, launched.read_all(), epoch)  # before a lost state replaces a good one
        if is_due:
            with timer.paused():
                self._save_latest(timer.describe(losses))
            is_asked = self._is_asked_to_stop()
        if is_asked:
            self._stop(timer.describe(losses))

    def _keep_losses(self, losses: list[float], arrived: Sequence[float], epoch: int) -> None:
        for loss in arrived:
            self._check_loss(loss, epoch, len(losses))
            losses.append(loss)

    def _compute_rate(self, epoch: int, iteration: int) -> float:
        dice = [record.mean_pseudo_dice for record in self.state.history]
        return compute_learning_rate(
            self.plan, self.state.schedule, epoch=epoch, iteration=iteration, measurements=dice
        )

    def _run_validation(
        self, epoch: int, batches: Iterator[Batch], timer: Timer
    ) -> Generator[IterationDone, None, tuple[list[float], list[OverlapCounts]]]:
        """Runs the validation of an epoch; returns less on a stop, after which all of it is repeated."""
        self.state.learner.train(is_training=False)
        self._set_progress(epoch, self.state.schedule.iterations_per_epoch)
        losses: list[float] = []
        counts: list[OverlapCounts] = []
        launched, end = LateLosses(read_together=self._block_steps), self.state.schedule.validation_iterations_per_epoch
        with self.state.learner.averaged_weights():
            for iteration in range(end):
                loss, of_batch = launch_validation_step(self.state.learner, timer.take(batches))
                counts.append(of_batch)
                arrived = launched.add(loss)
                if self._ends_block(iteration, end) and self._is_asked_to_stop():
                    break
                for read in arrived if iteration + 1 < end else [*arrived, *launched.read_all()]:
                    losses.append(read)
                    yield IterationDone(epoch=epoch, stream="validation", iteration=len(losses) - 1, loss=read)
        return losses, counts

    def _set_progress(self, epoch: int, iterations_done: int) -> None:
        schedule = self.state.schedule
        self.state.learner.set_progress(
            schedule.compute_progress(epoch + iterations_done / schedule.iterations_per_epoch)
        )

    def _check_loss(self, loss: float, epoch: int, iteration: int) -> None:
        self.overflows_in_a_row = 0 if math.isfinite(loss) else self.overflows_in_a_row + 1
        if self.overflows_in_a_row <= (TOLERATED_OVERFLOWS if self.state.learner.scaler.is_enabled() else 0):
            return
        msg = (
            f"the loss is {loss} in epoch {epoch}, iteration {iteration}: training has diverged; look for extreme or "
            f"non-finite intensities in the images, or lower training.initial_learning_rate in plan.json and begin "
            f"again with --restart; the checkpoints of earlier epochs in {self.output.root} are kept"
        )
        raise TrainingError(msg)

    def _keep_record(self, record: EpochRecord) -> None:
        """Adds the epoch to the history and the log; a new best moving average is saved in a checkpoint of its own."""
        averages = [old.moving_average for old in self.state.history if old.moving_average is not None]
        self.state.history.append(record)
        self.state.partial_epoch = None
        if not self.options.process_group.is_main_process:
            return
        self.files.add_epoch(self.state.history)
        if record.moving_average is not None and record.moving_average > max(averages, default=-1.0):
            write_network_checkpoint(self.output.best_checkpoint, self.state)


def _compute_finite_mean(losses: Sequence[float]) -> float | None:
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else None
