import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from builders.folds import build_epoch_record
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autoseg.errors import RunError
from autoseg.training.monitoring.event_files import open_event_files, write_events
from autoseg.training.monitoring.history import EpochRecord, append_to_training_log, write_training_log


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
    with pytest.raises(RunError, match=r"cannot write .*training_log\.jsonl: No space left.*same command"):
        append_to_training_log(path, build_epoch_record(0))


WRITE_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from autoseg.errors import RunError
from autoseg.training.monitoring.event_files import open_event_files, write_events
from autoseg.training.monitoring.history import EpochRecord
record = EpochRecord.model_validate_json(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    with open_event_files(Path(sys.argv[1]), first_epoch=0) as writer:
        for _ in range(1000):
            write_events(writer, record, ("a", "b"))
except RunError as error:
    sys.exit(f"told: {error}")
"""


def test_event_files_that_cannot_grow_are_reported_with_what_to_do(tmp_path):
    command = [
        sys.executable,
        "-c",
        WRITE_WITHOUT_ROOM,
        str(tmp_path / "events"),
        build_epoch_record(0).model_dump_json(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"told: cannot write event files to .*events: File too large; .*same command", done.stderr)


def read_scalars(folder, tag):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_event_files_hold_every_epoch_once_even_after_an_interruption(tmp_path):
    with open_event_files(tmp_path, first_epoch=0) as writer:
        for epoch in range(4):
            write_events(writer, build_epoch_record(epoch, train_loss=1.0), ("a", "b"))
    with open_event_files(tmp_path, first_epoch=2) as writer:
        for epoch in range(2, 4):
            write_events(writer, build_epoch_record(epoch, train_loss=2.0), ("a", "b"))
    assert read_scalars(tmp_path, "loss/training") == {0: 1.0, 1: 1.0, 2: 2.0, 3: 2.0}


def test_event_files_leave_out_what_has_no_value(tmp_path):
    with open_event_files(tmp_path, first_epoch=0) as writer:
        write_events(writer, build_epoch_record(0), ("a", "b"))
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

    with open_event_files(tmp_path, first_epoch=0) as writer:
        monkeypatch.setattr("time.time", tell)
        for epoch in range(3):
            write_events(writer, build_epoch_record(epoch, train_loss=1.0), ("a", "b"))
        monkeypatch.undo()
    assert read_scalars(tmp_path, "loss/training") == {0: 1.0, 1: 1.0, 2: 1.0}
