import itertools
import json
import re
from pathlib import Path

import pytest
from builders.damage import limit_file_size
from builders.folds import build_epoch_record
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autoseg.errors import RunError
from autoseg.run_folder import FoldFolder
from autoseg.training.monitoring.event_files import EventFile
from autoseg.training.monitoring.history import EpochRecord, append_to_training_log, write_training_log
from autoseg.training.monitoring.history_files import HistoryFiles
from autoseg.training.optimization.schedule import Schedule

CLASSES = ("a", "b")
SCHEDULE = Schedule(iterations_per_epoch=3, validation_iterations_per_epoch=1, end_epoch=4)


def test_the_log_has_one_line_per_epoch(tmp_path):
    path = tmp_path / "fold_0" / "training_log.jsonl"
    records = [build_epoch_record(0), build_epoch_record(1, train_loss=None)]
    for record in records:
        append_to_training_log(path, record)
    assert [EpochRecord.model_validate_json(line) for line in path.read_text().splitlines()] == records


def test_a_log_written_anew_forgets_what_will_be_repeated(tmp_path):
    path = tmp_path / "training_log.jsonl"
    for epoch in range(3):
        append_to_training_log(path, build_epoch_record(epoch))
    write_training_log(path, [build_epoch_record(0)])
    append_to_training_log(path, build_epoch_record(1))
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [0, 1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_reported_with_what_to_do(tmp_path):
    path = tmp_path / "training_log.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"cannot write .*training_log\.jsonl: No space left.*; free space"):
        append_to_training_log(path, build_epoch_record(0))


def read_scalars(folder, tag):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_event_files_hold_every_epoch_once_even_after_an_interruption(tmp_path):
    for first_epoch, loss in ((0, 1.0), (2, 2.0)):
        file = EventFile(tmp_path, first_epoch=first_epoch)
        for epoch in range(first_epoch, 4):
            file.append([build_epoch_record(epoch, train_loss=loss)], CLASSES)
    assert read_scalars(tmp_path, "loss/training") == {0: 1.0, 1: 1.0, 2: 2.0, 3: 2.0}


def test_event_files_leave_out_what_has_no_value(tmp_path):
    EventFile(tmp_path, first_epoch=0).append([build_epoch_record(0)], CLASSES)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert "pseudo_dice_of_class/a" in tags
    assert "pseudo_dice_of_class/b" not in tags
    assert read_scalars(tmp_path, "pseudo_dice/mean")[0] == pytest.approx(0.7)


@pytest.mark.parametrize("jump_seconds", [3.0e8, -3.0e8])
def test_a_clock_that_is_set_neither_stops_nor_loses_events(tmp_path, monkeypatch, jump_seconds):
    jumps = itertools.cycle([jump_seconds, 0.0])

    def tell() -> float:
        return 1.7e9 + next(jumps)

    file = EventFile(tmp_path, first_epoch=0)
    monkeypatch.setattr("time.time", tell)
    for epoch in range(3):
        file.append([build_epoch_record(epoch, train_loss=1.0)], CLASSES)
    monkeypatch.undo()
    assert read_scalars(tmp_path, "loss/training") == {0: 1.0, 1: 1.0, 2: 1.0}


@pytest.fixture
def files(tmp_path):
    """The files of a training, with what they announce."""
    told = []
    files = HistoryFiles(
        output=FoldFolder(tmp_path / "fold_0"), class_names=CLASSES, title="t", announce=told.append, first_epoch=0
    )
    return files, told


@pytest.mark.parametrize("room_bytes", [0, 30, 500])  # nothing, a part of the first line or event, a part of an epoch
def test_epochs_for_which_a_disk_has_no_room_are_announced_once_and_written_as_soon_as_it_has(files, room_bytes):
    files, told = files
    history = [build_epoch_record(epoch, train_loss=float(epoch)) for epoch in range(4)]
    with limit_file_size(room_bytes):
        for count in (1, 2, 3):
            files.add_epoch(history[:count])
            files.draw(history[:count], SCHEDULE)
    for name in ("training_log.jsonl", "tensorboard", "progress.png"):
        (text,) = (text for text in told if name in text)
        assert re.search(r"^warning: cannot write .*: File too large; free space.*; training continues", text)
    assert len(told) == 3
    files.add_epoch(history)
    files.draw(history, SCHEDULE)
    lines = files.output.training_log.read_text().splitlines()
    assert [EpochRecord.model_validate_json(line) for line in lines] == history
    assert read_scalars(files.output.tensorboard, "loss/training") == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}
    assert files.output.progress_picture.stat().st_size > 1000
    assert len(told) == 3
    with limit_file_size(0):
        files.add_epoch(history)
    assert len(told) == 4  # the events of these epochs are there
