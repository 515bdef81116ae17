import json
import math
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.clocks import Clock
from builders.networks import build_small_network_plan
from builders.progress import Notes, skip_drawing
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autoseg.errors import DeviceError, TrainingError
from autoseg.preprocessing.cache import open_case
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import FoldFolder
from autoseg.stages.stored_maps import PredictionSource, write_stage_map
from autoseg.training import loop, trainer
from autoseg.training.budget.pace import Budget, Forecast, StepTimes
from autoseg.training.budget.plateau import EPOCHS_BETWEEN_MEASUREMENTS, PATIENCE
from autoseg.training.checkpoint import read_checkpoint
from autoseg.training.execution import TrainingExecution
from autoseg.training.monitoring import history_files
from autoseg.training.monitoring.events import EpochDone, IterationDone
from autoseg.training.monitoring.progress_picture import write_progress_picture
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import Length, TrainingOptions
from autoseg.training.step import launch_training_step
from autoseg.training.trainer import train

ALWAYS, NEVER = 0.0, 1e9


_no_drawing = pytest.fixture(autouse=True)(skip_drawing)


@pytest.fixture
def start(plan_configuration, training_data):
    """Starts training the tiny configuration into a folder."""

    def make(folder, *, seed=0, seconds_between_checkpoints=ALWAYS, plan=None, previous=None, options=(), **changes):
        length = {field: changes.pop(field) for field in ("epochs", "more_epochs", "until_plateau") if field in changes}
        return train(
            plan or plan_configuration(**changes),
            replace(training_data, previous=previous),
            output=FoldFolder(folder),
            options=TrainingOptions(
                device=torch.device("cpu"),
                seed=seed,
                workers=0,
                length=Length(**length),
                seconds_between_checkpoints=seconds_between_checkpoints,
                **{"largest_saving_share": 1.0, **dict(options)},
            ),
        )

    return make


def stop_after_epoch(events, epoch):
    """Closes a training as an interruption does: in the middle of the following epoch."""
    for event in events:
        if isinstance(event, IterationDone) and event.epoch == epoch + 1:
            break
    events.close()


def stop_after_iteration(events, epoch, iteration):
    """Closes a training as an interruption does, between two iterations of training."""
    for event in events:
        if isinstance(event, IterationDone) and (event.stream, event.epoch, event.iteration) == (
            "training",
            epoch,
            iteration,
        ):
            break
    events.close()


def first_iteration(events):
    return next(event for event in events if isinstance(event, IterationDone))


def read_log(folder):
    return [json.loads(line) for line in FoldFolder(folder).training_log.read_text().splitlines()]


TIMES = {"seconds", "seconds_per_iteration", "data_wait_seconds"}


def drop_times(records):
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def test_a_training_tells_every_iteration_and_every_epoch(start, tmp_path):
    schedule, *events = start(tmp_path / "fold", epochs=2)
    assert (schedule.end_epoch, schedule.iterations_per_epoch) == (2, 3)
    told = [("E",) if isinstance(event, EpochDone) else (event.stream[0], event.iteration) for event in events]
    assert told == [("t", 0), ("t", 1), ("t", 2), ("v", 0), ("v", 1), ("E",)] * 2
    records = [event.record for event in events if isinstance(event, EpochDone)]
    assert records[0].learning_rate == 0.01
    assert records[1].learning_rate == pytest.approx(0.01 * 0.5**0.9)
    losses = [event.loss for event in events if isinstance(event, IterationDone) and event.stream == "training"]
    assert records[0].train_loss == pytest.approx(sum(losses[:3]) / 3)
    assert 0 < records[0].data_wait_seconds < records[0].seconds
    assert [record.model_dump(mode="json") for record in records] == read_log(tmp_path / "fold")


def test_a_finished_training_leaves_final_best_log_picture_and_events(start, tmp_path, monkeypatch):
    monkeypatch.setattr(history_files, "write_progress_picture", write_progress_picture)
    output = FoldFolder(tmp_path / "fold")
    list(start(output.root, epochs=2))
    assert output.final_checkpoint.exists()
    assert output.best_checkpoint.exists()
    assert not output.latest_checkpoint.exists()
    assert output.progress_picture.read_bytes().startswith(b"\x89PNG")
    assert len(read_checkpoint(output.final_checkpoint).description.history) == 2
    assert not [path for path in output.root.iterdir() if path.name.startswith(".")]


def test_the_final_checkpoint_is_there_when_the_last_epoch_is_reported(start, tmp_path):
    events = start(tmp_path / "fold", epochs=1)
    assert next(event for event in events if isinstance(event, EpochDone)).record.epoch == 0
    assert FoldFolder(tmp_path / "fold").final_checkpoint.exists()
    events.close()


def test_a_finished_training_is_not_repeated(start, tmp_path):
    list(start(tmp_path / "fold", epochs=1))
    before = FoldFolder(tmp_path / "fold").final_checkpoint.stat().st_mtime_ns
    assert list(start(tmp_path / "fold", epochs=1)) == []
    assert FoldFolder(tmp_path / "fold").final_checkpoint.stat().st_mtime_ns == before


@pytest.mark.parametrize("stopped_after", [0, 1])
def test_an_interrupted_training_ends_bit_for_bit_where_an_uninterrupted_one_ends(start, tmp_path, stopped_after):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    list(start(whole))
    stop_after_epoch(start(parts), stopped_after)
    assert len(read_checkpoint(FoldFolder(parts).latest_checkpoint).description.history) == stopped_after + 1
    continued = list(start(parts))
    assert first_iteration(continued).epoch == stopped_after + 1
    for kind in ("final_checkpoint", "best_checkpoint"):
        expected, found = (read_checkpoint(getattr(FoldFolder(folder), kind)) for folder in (whole, parts))
        assert set(expected.tensors) == set(found.tensors)
        assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)
    assert drop_times(read_log(whole)) == drop_times(read_log(parts))


WITHIN_EPOCHS = {"seconds_between_partial_checkpoints": ALWAYS}


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw", "momentum": 0.9, "weight_average_decay": 0.9}])
def test_a_learner_that_is_replaced_after_an_epoch_ends_bit_for_bit_where_the_first_would_have(
    start, tmp_path, monkeypatch, settings
):
    for _ in start(tmp_path / "whole", epochs=3, **settings):
        pass
    faster = iter([TrainingExecution(memory_format=torch.contiguous_format), None])
    closed = []
    monkeypatch.setattr(trainer.CompilingBeside, "take", lambda self: next(faster))
    monkeypatch.setattr(trainer.CompilingBeside, "close", lambda self: closed.append(True))
    for _ in start(tmp_path / "replaced", epochs=3, **settings):
        pass
    assert next(faster, "asked twice") == "asked twice"
    assert closed == [True]
    assert_equal_ends(tmp_path / "whole", tmp_path / "replaced")


def read_latest(folder):
    return read_checkpoint(FoldFolder(folder).latest_checkpoint)


@pytest.mark.parametrize(("epoch", "iteration"), [(0, 0), (1, 1), (2, 2)])
def test_a_training_goes_on_within_an_epoch_as_if_nothing_had_happened(start, tmp_path, epoch, iteration):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    list(start(whole))
    stop_after_iteration(start(parts, options=WITHIN_EPOCHS), epoch, iteration)
    assert read_latest(parts).description.reached == (epoch, iteration + 1)
    assert [record["epoch"] for record in read_log(parts)] == list(range(epoch))
    first = first_iteration(continued := start(parts))
    following = ("training", iteration + 1) if iteration < 2 else ("validation", 0)
    assert (first.epoch, first.stream, first.iteration) == (epoch, *following)
    list(continued)
    for kind in ("final_checkpoint", "best_checkpoint"):
        expected, found = (read_checkpoint(getattr(FoldFolder(folder), kind)) for folder in (whole, parts))
        assert set(expected.tensors) == set(found.tensors)
        assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)
    assert drop_times(read_log(whole)) == drop_times(read_log(parts))


@pytest.fixture
def stop():
    """Hears the signals that a test raises; as in a terminal, Ctrl-C is not ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request = StopRequest()
    with request.handle_signals():
        yield request
    signal.signal(signal.SIGINT, before)


def ask_to_stop(events, *, at, number=signal.SIGINT):
    """Raises a signal when an epoch, or one of its iterations, is told; the training must end by itself."""
    for event in events:
        if isinstance(event, EpochDone):
            told = (event.record.epoch,)
        else:
            told = (event.epoch, event.stream, event.iteration) if isinstance(event, IterationDone) else None
        if told == at:
            signal.raise_signal(number)


def assert_equal_ends(whole, parts):
    for kind in ("final_checkpoint", "best_checkpoint"):
        expected, found = (read_checkpoint(getattr(FoldFolder(folder), kind)) for folder in (whole, parts))
        assert set(expected.tensors) == set(found.tensors)
        assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)
    assert drop_times(read_log(whole)) == drop_times(read_log(parts))


@pytest.mark.parametrize(
    ("at", "reached", "decay", "number"),
    [
        ((0, "training", 0), (0, 2), 0.0, signal.SIGINT),
        ((1, "training", 1), (1, 3), 0.9, signal.SIGTERM),
        ((1, "training", 2), (1, 3), 0.9, signal.SIGINT),  # in the validation, of which nothing is kept
        ((1, "validation", 1), (1, 3), 0.0, signal.SIGTERM),
    ],
)
def test_a_training_that_is_asked_to_stop_saves_where_it_is_and_ends_bit_for_bit(
    start, stop, tmp_path, *, at, reached, decay, number
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = {"weight_average_decay": decay, "seconds_between_checkpoints": NEVER}
    list(start(whole, **changes))
    with pytest.raises(KeyboardInterrupt):
        ask_to_stop(start(parts, **changes, options={"stop": stop}), at=at, number=number)
    assert read_latest(parts).description.reached == reached
    list(start(parts, **changes))
    assert_equal_ends(whole, parts)


def test_requests_that_come_while_the_state_is_saved_do_not_spoil_it(start, stop, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    list(start(whole))
    write = loop.write_resumable_checkpoint

    def write_meanwhile(path, state):
        signal.raise_signal(signal.SIGINT)  # the second of two
        write(path, state)

    monkeypatch.setattr(loop, "write_resumable_checkpoint", write_meanwhile)
    events = start(parts, seconds_between_checkpoints=NEVER, options={"stop": stop})
    with pytest.raises(KeyboardInterrupt):
        ask_to_stop(events, at=(1, "training", 0))
    monkeypatch.undo()
    assert read_latest(parts).description.reached == (1, 2)
    list(start(parts))
    assert_equal_ends(whole, parts)


def test_a_request_in_the_last_epoch_comes_after_the_final_checkpoint(start, stop, tmp_path):
    folder = tmp_path / "fold"
    with pytest.raises(KeyboardInterrupt):
        ask_to_stop(start(folder, epochs=1, options={"stop": stop}), at=(0,))
    assert FoldFolder(folder).final_checkpoint.exists()
    assert list(start(folder, epochs=1)) == []


def test_a_request_while_whole_volumes_are_measured_is_answered_at_once_and_the_epoch_is_kept(start, stop, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = {"until_plateau": True, "weight_average_decay": 0.9, "seconds_between_checkpoints": NEVER, "epochs": 6}

    def measure(network):
        return 0.5

    def measure_and_be_interrupted(network):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("measuring went on")

    list(start(whole, **changes, options={"measure_dice": measure}))
    with pytest.raises(KeyboardInterrupt):
        list(start(parts, **changes, options={"measure_dice": measure_and_be_interrupted, "stop": stop}))
    assert read_latest(parts).description.reached == (4, 3)
    list(start(parts, **changes, options={"measure_dice": measure}))
    assert_equal_ends(whole, parts)


def test_the_times_of_an_epoch_in_two_parts_are_those_of_both(start, tmp_path):
    folder = tmp_path / "fold"
    stop_after_iteration(start(folder, options=WITHIN_EPOCHS), 0, 1)
    before = read_latest(folder).description
    assert before.spent_seconds == before.partial_epoch.seconds > before.partial_epoch.data_wait_seconds > 0
    stop_after_epoch(start(folder), 0)
    record = read_log(folder)[0]
    assert record["seconds"] > before.partial_epoch.seconds
    assert record["data_wait_seconds"] > before.partial_epoch.data_wait_seconds


@pytest.mark.parametrize(("share", "saved"), [(1.0, 6), (0.001, 1)])
def test_a_slow_disk_is_written_to_less_often(start, tmp_path, monkeypatch, *, share, saved):
    written = []

    def write_slowly(path, state):
        written.append((len(state.history), state.partial_epoch))
        time.sleep(0.05)

    monkeypatch.setattr(loop, "write_resumable_checkpoint", write_slowly)
    options = WITHIN_EPOCHS | {"largest_saving_share": share}
    list(start(tmp_path / "fold", epochs=2, seconds_between_checkpoints=NEVER, options=options))
    assert len(written) == saved


def test_an_extension_that_is_interrupted_in_its_first_epoch_goes_on_there(start, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        list(start(folder, epochs=2))
    list(start(whole, more_epochs=2))
    stop_after_iteration(start(parts, more_epochs=2, options=WITHIN_EPOCHS), 2, 0)
    schedule, *events = start(parts)
    assert (schedule.first_epoch, schedule.end_epoch) == (2, 4)
    assert (first_iteration(events).epoch, first_iteration(events).iteration) == (2, 1)
    expected, found = (read_final(folder).tensors for folder in (whole, parts))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_an_epoch_of_which_only_a_part_is_trained_now_does_not_tell_the_pace(start, tmp_path, monkeypatch):
    folder, told = tmp_path / "fold", []
    stop_after_iteration(start(folder, options=WITHIN_EPOCHS), 0, 1)

    def watch(epoch_seconds, *, expected_seconds):
        told.append(len(epoch_seconds))
        return expected_seconds

    monkeypatch.setattr(loop, "estimate_pace", watch)
    budget = Budget(seconds=1e6, reserved_seconds=0.0, start=time.monotonic())
    list(start(folder, options={"budget": budget}))
    assert told == [1, 2, 3]


def test_epochs_after_the_last_checkpoint_are_repeated_once_in_log_and_events(start, tmp_path):
    folder = tmp_path / "fold"
    stop_after_epoch(start(folder), 0)
    stop_after_epoch(start(folder, seconds_between_checkpoints=NEVER), 2)
    assert [record["epoch"] for record in read_log(folder)] == [0, 1, 2]
    list(start(folder))
    assert [record["epoch"] for record in read_log(folder)] == [0, 1, 2, 3]
    events = EventAccumulator(str(FoldFolder(folder).tensorboard))
    events.Reload()
    assert sorted(event.step for event in events.Scalars("loss/training")) == [0, 1, 2, 3]


def test_short_epochs_are_not_spent_on_saving(start, tmp_path):
    stop_after_epoch(start(tmp_path / "fold", seconds_between_checkpoints=NEVER), 2)
    assert not FoldFolder(tmp_path / "fold").latest_checkpoint.exists()


def test_a_training_without_a_checkpoint_begins_again(start, tmp_path):
    stop_after_epoch(start(tmp_path / "fold", seconds_between_checkpoints=NEVER), 0)
    assert first_iteration(start(tmp_path / "fold")).epoch == 0
    assert read_log(tmp_path / "fold") == []


def test_another_number_of_epochs_cannot_continue(start, tmp_path):
    stop_after_epoch(start(tmp_path / "fold"), 0)
    with pytest.raises(TrainingError, match=r"begun with 4 epochs and cannot be continued with 6.*--restart"):
        next(start(tmp_path / "fold", epochs=6))


def test_the_seed_changes_a_training(start, tmp_path):
    first, second = (first_iteration(start(tmp_path / str(seed), seed=seed)).loss for seed in (0, 1))
    assert first != second


@pytest.fixture
def cascade(plan_configuration, previous):
    changes = {"previous_stage": previous.input.plan}
    return plan_configuration(network={"input_channels": 2}).model_copy(update=changes)


def test_a_resumed_cascade_is_equal_to_an_uninterrupted_one(start, cascade, previous, tmp_path):
    list(start(tmp_path / "whole", plan=cascade, previous=previous))
    stop_after_epoch(start(tmp_path / "parts", plan=cascade, previous=previous), 1)
    list(start(tmp_path / "parts", plan=cascade, previous=previous))
    whole, parts = (read_checkpoint(FoldFolder(tmp_path / name).final_checkpoint) for name in ("whole", "parts"))
    assert whole.tensors.keys() == parts.tensors.keys()
    assert all(torch.equal(tensor, parts.tensors[name]) for name, tensor in whole.tensors.items())


def test_the_predictions_of_the_previous_stage_decide_about_a_cascade(start, cascade, previous, tmp_path):
    first = first_iteration(start(tmp_path / "first", plan=cascade, previous=previous)).loss
    for path in previous.folder.glob("*.previous.b2nd"):
        case = open_case(previous.folder.parent / "data", path.name.partition(".")[0])
        write_stage_map(
            previous.folder,
            case.name,
            np.zeros(case.label_map.shape, np.int16),
            source=PredictionSource(configuration="3d_lowres", fold="0", weights_sha256="1"),
            geometry=case.geometry,
            patch_voxels=(1, 16, 16),
        )
    assert first_iteration(start(tmp_path / "second", plan=cascade, previous=previous)).loss != first


def test_a_cascade_is_not_continued_on_predictions_of_another_first_stage(start, cascade, previous, tmp_path):
    stop_after_epoch(start(tmp_path / "fold", plan=cascade, previous=previous), 0)
    with pytest.raises(TrainingError, match=r"weights of the previous stage changed.*--restart"):
        next(start(tmp_path / "fold", plan=cascade, previous=replace(previous, digest="second")))


def test_a_finished_cascade_is_extended_on_other_predictions_and_continued_alike(start, cascade, previous, tmp_path):
    other = replace(previous, digest="second")
    for length in ({"more_epochs": 2}, {"epochs": 3}):
        folder = tmp_path / next(iter(length))
        list(start(folder, plan=cascade, previous=previous, epochs=1))
        stop_after_epoch(start(folder, plan=cascade, previous=other, **length), 1)
        list(start(folder, plan=cascade, previous=other))
        assert len(read_final(folder).description.history) == 3
        with pytest.raises(TrainingError, match="weights of the previous stage changed"):
            next(start(folder, plan=cascade, previous=previous, epochs=3))


def test_a_lost_loss_ends_the_training_and_keeps_the_checkpoint(start, tmp_path, monkeypatch):
    folder = tmp_path / "fold"
    stop_after_epoch(start(folder), 0)
    monkeypatch.setattr(loop, "launch_training_step", lambda learner, batch: torch.tensor(math.nan))
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, iteration 0.*initial_learning_rate"):
        list(start(folder))
    assert len(read_checkpoint(FoldFolder(folder).latest_checkpoint).description.history) == 1


def read_losses_late(monkeypatch, *, read_together):
    monkeypatch.setattr(loop, "STEPS_OF_A_BLOCK", {"cpu": read_together})


def test_losses_that_are_read_late_change_neither_weights_nor_log_and_are_all_told(start, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    at_once = list(start(whole, epochs=2))
    read_losses_late(monkeypatch, read_together=2)
    stop_after_iteration(start(parts, epochs=2, options=WITHIN_EPOCHS), 1, 0)
    begun = read_latest(parts).description.reached
    late = list(start(parts, epochs=2))
    assert begun == (1, 1)
    told = [event for event in at_once if isinstance(event, IterationDone)]
    assert [event for event in late if isinstance(event, IterationDone)] == told[-len(late) + 2 :]
    assert drop_times(read_log(whole)) == drop_times(read_log(parts))
    expected, found = read_final(whole), read_final(parts)
    assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)


@pytest.mark.parametrize("read_together", [1, 2, 4])
def test_a_loss_that_is_lost_is_named_by_its_step_and_never_saved(start, tmp_path, monkeypatch, read_together):
    folder, launched = tmp_path / "fold", []

    def lose_the_second(learner, batch):
        launched.append(batch)
        return torch.tensor(math.nan if len(launched) == 5 else 0.5)

    monkeypatch.setattr(loop, "launch_training_step", lose_the_second)
    read_losses_late(monkeypatch, read_together=read_together)
    with pytest.raises(TrainingError, match="loss is nan in epoch 0, iteration 4:"):
        list(start(folder, epochs=1, iterations_per_epoch=20, options={"seconds_between_partial_checkpoints": 0.05}))
    assert len(launched) <= 5 + 2 * read_together
    latest = FoldFolder(folder).latest_checkpoint
    assert not latest.exists() or read_checkpoint(latest).description.reached <= (0, 4)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_full_device_is_reported(start, tmp_path, monkeypatch, error):
    def fail(learner, batch):
        raise error

    monkeypatch.setattr(loop, "launch_training_step", fail)
    with pytest.raises(DeviceError, match=r"cpu has too little memory for the planned network .*plan --memory-gb"):
        list(start(tmp_path / "fold"))


def test_curves_that_cannot_be_written_cost_neither_the_training_nor_a_weight(start, tmp_path, monkeypatch):
    monkeypatch.setattr(history_files, "write_progress_picture", write_progress_picture)
    told = []
    folder, other = FoldFolder(tmp_path / "fold"), FoldFolder(tmp_path / "other")
    folder.root.mkdir()
    folder.tensorboard.write_text("in the way")
    folder.progress_picture.mkdir()
    list(start(folder.root, epochs=2, options={"announce": told.append}))
    list(start(other.root, epochs=2))
    assert [text.split(";")[0] for text in told] == [
        f"warning: cannot create the folder {folder.tensorboard}: File exists",
        f"warning: cannot write {folder.progress_picture}: Is a directory",
    ]
    found, expected = (read_checkpoint(place.final_checkpoint).tensors for place in (folder, other))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [record["epoch"] for record in read_log(folder.root)] == [0, 1]


def test_the_network_knows_when_it_is_validated(start, tmp_path, monkeypatch):
    modes = []

    def watch(step):
        def run(learner, batch):
            modes.append(learner.network.training)
            return step(learner, batch)

        return run

    monkeypatch.setattr(loop, "launch_training_step", watch(loop.launch_training_step))
    monkeypatch.setattr(loop, "launch_validation_step", watch(loop.launch_validation_step))
    list(start(tmp_path / "fold", epochs=2, seconds_between_checkpoints=NEVER))
    assert modes == [True, True, True, False, False] * 2


def test_training_learns(start, tmp_path):
    events = list(start(tmp_path / "fold", epochs=2, iterations_per_epoch=15, seconds_between_checkpoints=NEVER))
    records = [event.record for event in events if isinstance(event, EpochDone)]
    assert records[-1].train_loss < records[0].train_loss


def read_final(folder):
    return read_checkpoint(FoldFolder(folder).final_checkpoint)


@pytest.mark.parametrize(("length", "end"), [({"epochs": 3}, 3), ({"more_epochs": 2}, 4)])
def test_a_finished_training_is_extended_with_a_new_rise_of_the_learning_rate(start, tmp_path, length, end):
    folder = tmp_path / "fold"
    list(start(folder, epochs=2))
    before = read_final(folder)
    schedule, *events = start(folder, **length)
    assert (schedule.first_epoch, schedule.end_epoch, schedule.peak) == (2, end, 0.5)
    assert first_iteration(events).epoch == 2
    after = read_final(folder)
    assert len(after.description.history) == end == len(read_log(folder))
    assert after.description.history[:2] == before.description.history
    assert any(not torch.equal(after.tensors[name], value) for name, value in before.tensors.items())
    rates = [record.learning_rate for record in after.description.history]
    assert rates[2] == pytest.approx(0.01 * 0.5 / 4)  # the first of three iterations of a rise to half the rate


def test_an_interrupted_extension_goes_on(start, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        list(start(folder, epochs=1))
    list(start(whole, more_epochs=3))
    stop_after_epoch(start(parts, more_epochs=3), 2)
    assert first_iteration(start(parts)).epoch == 3
    list(start(parts))
    expected, found = read_final(whole), read_final(parts)
    assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)


def test_fewer_epochs_than_a_finished_training_had_are_refused(start, tmp_path):
    list(start(tmp_path / "fold", epochs=2))
    with pytest.raises(TrainingError, match=r"finished after 2 epochs, more than the 1 asked for.*--restart"):
        next(start(tmp_path / "fold", epochs=1))


def make_slow_clock(monkeypatch, seconds_per_step):
    """Goes on by a fixed time whenever a step is done."""
    clock = Clock()
    monkeypatch.setattr(loop, "launch_training_step", clock.after(launch_training_step, seconds_per_step))
    return clock


def make_budget(clock, seconds):
    return Budget(seconds=seconds, reserved_seconds=0.0, start=0.0, clock=clock)


def test_a_budget_lays_out_the_training_and_is_kept_on_a_machine_that_turns_out_slower(start, tmp_path, monkeypatch):
    events = start(
        tmp_path / "fold",
        epochs=1000,
        options={"budget": Budget(seconds=2.0, reserved_seconds=0.5, start=0.0, clock=lambda: 0.0)},
    )
    forecast = next(events)
    events.close()
    assert isinstance(forecast, Forecast)
    assert forecast.training_seconds == pytest.approx(1.5, rel=0.35)  # whole epochs fit only roughly into so little
    laid_out = forecast.schedule.end_epoch
    clock = make_slow_clock(monkeypatch, seconds_per_step=1.0)
    budget = make_budget(clock, seconds=30.0)
    events = list(start(tmp_path / "slow", epochs=1000, options={"budget": budget}))
    assert laid_out > 0
    replaced = [event for event in events if isinstance(event, Schedule)]
    assert replaced
    assert 27 <= clock.now <= 33
    history = read_final(tmp_path / "slow").description.history
    assert history[-1].learning_rate < 0.01 * 0.35
    rates = [record.learning_rate for record in history]
    assert rates == sorted(rates, reverse=True)


def train_slowly(start, folder, clock, *, seconds, needed, **length):
    """On a machine that takes a second for a step, which nobody expects, as it was measured in another place."""
    notes = Notes()
    options = {"budget": make_budget(clock, seconds=seconds), "announce": notes.note}
    events = start(folder, sufficient_iterations=needed, options=options, **length)
    return events, notes


def test_a_training_that_gets_next_to_nothing_warns_at_once_and_ends_as_a_failure_that_can_go_on(
    start, tmp_path, monkeypatch
):
    folder = FoldFolder(tmp_path / "fold")
    clock = make_slow_clock(monkeypatch, seconds_per_step=1.0)
    times = StepTimes(
        data_seconds=0.0, forward_seconds=0.0, backward_seconds=0.0, iteration_seconds=0.01, validation_seconds=0.01
    )
    monkeypatch.setattr(trainer, "measure_step_times", lambda *arguments, **named: times)
    events, notes = train_slowly(start, folder.root, clock, seconds=60.0, needed=3000, epochs=1000)
    told_after = []

    def watch():
        told_after.extend(clock.now for _ in events if notes.lines)

    with pytest.raises(TrainingError, match=r"the time is over.* 60 are trained.*with a --budget that leaves 49:00"):
        watch()
    assert told_after[0] <= 18
    (warning,) = notes.lines
    assert warning.startswith("warning: at this pace the budget does not hold a tenth of the 3,000 iterations")
    assert clock.now == 60
    assert not folder.final_checkpoint.exists()
    kept = read_checkpoint(folder.latest_checkpoint).description
    assert (len(kept.history), kept.schedule.end_epoch) == (20, 1000)
    assert kept.history[-1].learning_rate > 0.009

    monkeypatch.setattr(loop, "launch_training_step", launch_training_step)
    events, notes = train_slowly(start, folder.root, clock, seconds=clock.now + 1e6, needed=3000)
    forecast = next(events)
    assert forecast.schedule.end_epoch == kept.schedule.end_epoch
    assert first_iteration(events).epoch == 20
    events.close()
    assert notes.lines == []


def test_a_training_that_gets_more_than_a_tenth_ends_as_one(start, tmp_path, monkeypatch):
    clock = make_slow_clock(monkeypatch, seconds_per_step=1.0)
    events, notes = train_slowly(start, tmp_path / "fold", clock, seconds=30.0, needed=250, epochs=1000)
    list(events)
    assert 27 <= clock.now <= 33
    assert notes.lines == []
    assert (tmp_path / "fold" / "checkpoint_final.safetensors").is_file()


def test_a_plan_of_few_iterations_is_trained_to_its_end(start, tmp_path, monkeypatch):
    clock = make_slow_clock(monkeypatch, seconds_per_step=1.0)
    options = {"budget": make_budget(clock, seconds=1000.0)}
    list(start(tmp_path / "fold", epochs=4, sufficient_iterations=3000, options=options))
    assert (tmp_path / "fold" / "checkpoint_final.safetensors").is_file()


def test_what_is_left_of_a_training_is_laid_out_within_a_budget_before_it_goes_on(start, tmp_path):
    stop_after_epoch(start(tmp_path / "fold", epochs=1000), 2)
    short = Budget(seconds=2.0, reserved_seconds=0.5, start=0.0, clock=lambda: 0.0)
    events = start(tmp_path / "fold", options={"budget": short})
    forecast = next(events)
    events.close()
    assert isinstance(forecast, Forecast)
    assert 3 < forecast.schedule.end_epoch < 1000
    assert forecast.training_seconds == pytest.approx(1.5, rel=0.35)
    events = start(tmp_path / "fold", options={"budget": replace(short, seconds=0.0, reserved_seconds=0.0)})
    assert next(events).schedule.end_epoch == 4
    assert len([event for event in events if isinstance(event, EpochDone)]) == 1
    assert (tmp_path / "fold" / "checkpoint_final.safetensors").is_file()


def test_a_long_training_without_a_budget_begins_with_a_forecast_and_keeps_its_length(start, tmp_path):
    events = start(tmp_path / "long", epochs=600)
    forecast = next(events)
    events.close()
    assert isinstance(forecast, Forecast)
    assert forecast.budget_seconds is None
    assert forecast.schedule.end_epoch == 600
    per_epoch = forecast.schedule.iterations_per_epoch * forecast.times.iteration_seconds
    assert forecast.training_seconds >= 600 * per_epoch > 0
    short = next(start(tmp_path / "short", epochs=2))
    assert isinstance(short, Schedule)


def test_a_training_until_the_plateau_ends_with_a_falling_learning_rate(start, tmp_path):
    told = []

    def measure(network):
        told.append(network.training)
        return 0.5

    events = list(
        start(
            tmp_path / "fold",
            until_plateau=True,
            iterations_per_epoch=1,
            validation_iterations_per_epoch=1,
            options={"measure_dice": measure},
            epochs=1000,
        )
    )
    assert told == [False] * (PATIENCE + 1)
    flat = EPOCHS_BETWEEN_MEASUREMENTS * (PATIENCE + 1)
    records = [event.record for event in events if isinstance(event, EpochDone)]
    assert {record.learning_rate for record in records[: flat + 1]} == {0.01}
    assert len(records) == flat + round(flat / 4)
    assert records[-1].learning_rate < 0.003
    assert [record.epoch for record in records if record.volume_dice is not None] == list(range(4, flat, 5))


def test_the_kept_weights_are_the_average_and_resuming_keeps_it(start, tmp_path):
    plain, whole, parts = tmp_path / "plain", tmp_path / "whole", tmp_path / "parts"
    changes = {"weight_average_decay": 0.9, "optimizer": "adamw", "momentum": 0.9, "initial_learning_rate": 0.001}
    list(start(whole, **changes))
    list(start(plain, **changes | {"weight_average_decay": 0.0}))
    stop_after_epoch(start(parts, **changes), 1)
    latest = read_checkpoint(FoldFolder(parts).latest_checkpoint)
    assert any(
        not torch.equal(latest.tensors["average.0"], value)
        for name, value in latest.tensors.items()
        if name == "network.encoder.stages.0.0.normalized.convolution.weight"
    )
    list(start(parts, **changes))
    expected, found, other = map(read_final, (whole, parts, plain))
    assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)
    assert any(not torch.equal(expected.tensors[name], other.tensors[name]) for name in expected.tensors)
    losses = [[record["train_loss"] for record in read_log(folder)] for folder in (whole, plain)]
    assert losses[0] == losses[1]  # the average watches the training and does not change it


CHANGED = (
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "sgd", "momentum": 0.0},
    {"optimizer": "adam", "momentum": 0.9, "initial_learning_rate": 0.001},
    {"optimizer": "rmsprop", "momentum": 0.9, "initial_learning_rate": 1e-4},
    {"augmentation_end_fraction": 0.5},
    {"schedule": {"name": "on_plateau", "factor": 0.1, "patience_epochs": 0, "smallest_improvement": 1.0}},
)


@pytest.mark.parametrize("changes", CHANGED)
def test_a_training_with_other_values_is_resumed_bit_for_bit(start, tmp_path, changes):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    list(start(whole, **changes))
    stop_after_iteration(start(parts, **changes, options={"seconds_between_partial_checkpoints": ALWAYS}), 2, 1)
    continued = list(start(parts, **changes))
    assert first_iteration(continued).epoch == 2
    expected, found = map(read_final, (whole, parts))
    assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)
    assert drop_times(read_log(whole)) == drop_times(read_log(parts))
    if "augmentation_end_fraction" in changes:
        list(start(tmp_path / "augmented"))
        ended, augmented = (
            [record["train_loss"] for record in read_log(tmp_path / name)] for name in ("whole", "augmented")
        )
        assert [first == second for first, second in zip(ended, augmented, strict=True)] == [True, True, False, False]
    if "schedule" in changes:
        rates = [record["learning_rate"] for record in read_log(parts)]
        assert rates[1:3] == pytest.approx([0.01, 0.001])  # the first epoch is the best so far, the second is not


OTHERS = {"u_shaped": {"dropout": 0.5}, "shape stream": {}}


@pytest.mark.parametrize("name", OTHERS)
def test_a_network_with_dropout_or_edges_is_resumed_bit_for_bit(start, plan_configuration, tmp_path, name):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    network = build_small_network_plan(name, 2, input_channels=1, output_channels=2, **OTHERS[name])
    plan = plan_configuration(epochs=2).model_copy(update={"network": network})
    list(start(whole, plan=plan))
    stop_after_iteration(start(parts, plan=plan, options={"seconds_between_partial_checkpoints": ALWAYS}), 1, 1)
    torch.manual_seed(1)  # as in another process, which drew other numbers before
    list(start(parts, plan=plan))
    expected, found = map(read_final, (whole, parts))
    assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)
    assert drop_times(read_log(whole)) == drop_times(read_log(parts))


def test_a_training_in_bfloat16_learns_and_differs(start, tmp_path):
    folder, other = tmp_path / "fold", tmp_path / "other"
    list(start(folder, epochs=2, iterations_per_epoch=15, options={"dtype": "bfloat16"}))
    list(start(other, epochs=2, iterations_per_epoch=15))
    reduced, exact = ([record["train_loss"] for record in read_log(place)] for place in (folder, other))
    assert reduced[1] < reduced[0]
    assert reduced != exact
    assert reduced == pytest.approx(exact, abs=0.1)
    assert all(tensor.dtype == torch.float32 for tensor in read_final(folder).tensors.values())
