import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autoseg.errors import DeviceError, TrainingError
from autoseg.run_folder import FoldFolder
from autoseg.training import loop
from autoseg.training.checkpoint import read_checkpoint
from autoseg.training.loop import EpochDone, IterationDone, TrainingOptions, train

ALWAYS, NEVER = 0.0, 1e9


@pytest.fixture
def dataset(labels, channels, data_folder, fold):
    """What a training is given beside its plan."""
    return {"labels": labels, "channels": channels, "data_folder": data_folder, "fold": fold}


@pytest.fixture
def start(plan_configuration, dataset):
    """Starts training the tiny configuration into a folder."""

    def make(folder, *, epochs=None, seed=0, seconds_between_checkpoints=ALWAYS, plan=None, **changes):
        return train(
            plan or plan_configuration(**changes),
            **dataset,
            output=FoldFolder(folder),
            options=TrainingOptions(
                device=torch.device("cpu"),
                seed=seed,
                workers=0,
                epochs=epochs,
                seconds_between_checkpoints=seconds_between_checkpoints,
            ),
        )

    return make


def stop_after_epoch(events, epoch):
    """Closes a training as an interruption does: in the middle of the following epoch."""
    for event in events:
        if isinstance(event, IterationDone) and event.epoch == epoch + 1:
            break
    events.close()


def read_log(folder):
    return [json.loads(line) for line in FoldFolder(folder).training_log.read_text().splitlines()]


TIMES = {"seconds", "seconds_per_iteration", "data_wait_seconds"}


def drop_times(records):
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def test_a_training_tells_every_iteration_and_every_epoch(start, tmp_path):
    events = list(start(tmp_path / "fold", epochs=2))
    told = [("E",) if isinstance(event, EpochDone) else (event.stream[0], event.iteration) for event in events]
    assert told == [("t", 0), ("t", 1), ("t", 2), ("v", 0), ("v", 1), ("E",)] * 2
    records = [event.record for event in events if isinstance(event, EpochDone)]
    assert records[0].learning_rate == 0.01
    assert records[1].learning_rate == pytest.approx(0.01 * 0.5**0.9)
    losses = [event.loss for event in events if isinstance(event, IterationDone) and event.stream == "training"]
    assert records[0].train_loss == pytest.approx(sum(losses[:3]) / 3)
    assert 0 < records[0].data_wait_seconds < records[0].seconds
    assert [record.model_dump(mode="json") for record in records] == read_log(tmp_path / "fold")


def test_a_finished_training_leaves_final_best_log_picture_and_events(start, tmp_path):
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
    assert continued[0].epoch == stopped_after + 1
    for kind in ("final_checkpoint", "best_checkpoint"):
        expected, found = (read_checkpoint(getattr(FoldFolder(folder), kind)) for folder in (whole, parts))
        assert set(expected.tensors) == set(found.tensors)
        assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)
    assert drop_times(read_log(whole)) == drop_times(read_log(parts))


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
    assert next(start(tmp_path / "fold")).epoch == 0
    assert read_log(tmp_path / "fold") == []


def test_another_number_of_epochs_cannot_continue(start, tmp_path):
    stop_after_epoch(start(tmp_path / "fold"), 0)
    with pytest.raises(TrainingError, match=r"epochs was 4, now 6.*--restart"):
        next(start(tmp_path / "fold", epochs=6))


def test_the_seed_changes_a_training(start, tmp_path):
    first, second = (next(start(tmp_path / str(seed), seed=seed)).loss for seed in (0, 1))
    assert first != second


def test_the_second_stage_of_a_cascade_is_refused(start, plan_configuration, tmp_path):
    plan = plan_configuration().model_copy(update={"previous_stage": "3d_lowres"})
    with pytest.raises(TrainingError, match=r"'3d_lowres'.*cascade is not available yet"):
        next(start(tmp_path / "fold", plan=plan))


def test_a_lost_loss_ends_the_training_and_keeps_the_checkpoint(start, tmp_path, monkeypatch):
    folder = tmp_path / "fold"
    stop_after_epoch(start(folder), 0)
    monkeypatch.setattr(loop, "run_training_step", lambda learner, batch: float("nan"))
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, iteration 0.*initial_learning_rate"):
        next(start(folder))
    assert len(read_checkpoint(FoldFolder(folder).latest_checkpoint).description.history) == 1


def test_a_full_device_is_reported(start, tmp_path, monkeypatch):
    def fail(learner, batch):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(loop, "run_training_step", fail)
    with pytest.raises(DeviceError, match="too little memory"):
        next(start(tmp_path / "fold"))


def test_the_network_knows_when_it_is_validated(start, tmp_path, monkeypatch):
    modes = []

    def watch(step):
        def run(learner, batch):
            modes.append(learner.network.training)
            return step(learner, batch)

        return run

    monkeypatch.setattr(loop, "run_training_step", watch(loop.run_training_step))
    monkeypatch.setattr(loop, "run_validation_step", watch(loop.run_validation_step))
    list(start(tmp_path / "fold", epochs=2, seconds_between_checkpoints=NEVER))
    assert modes == [True, True, True, False, False] * 2


def test_training_learns(start, tmp_path):
    events = list(start(tmp_path / "fold", epochs=2, iterations_per_epoch=15, seconds_between_checkpoints=NEVER))
    records = [event.record for event in events if isinstance(event, EpochDone)]
    assert records[-1].train_loss < records[0].train_loss
