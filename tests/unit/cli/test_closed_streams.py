"""Commands work although standard streams were closed before their start, or cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders.damage import limit_file_size
from rich.console import Console as RichConsole

from autoseg.cli.terminal.console import Console, build_stop_request, open_closed_streams


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_a_command_succeeds_while_all_standard_streams_are_closed() -> None:
    command = f"'{sys.executable}' -m autoseg planners <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False, timeout=60).returncode == 0


def test_a_closed_stream_becomes_the_null_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    open_closed_streams()
    with sys.stdout as stream:
        assert stream.name == os.devnull
        assert stream.write("text") == 4


def test_a_request_to_stop_needs_no_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    build_stop_request().tell("stopping")


def test_lines_for_which_a_disk_has_no_room_end_no_work_and_come_as_soon_as_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stderr", os.fdopen(writing, "w"))
    with (tmp_path / "train.log").open("w") as log:
        console = Console(RichConsole(file=log))
        with limit_file_size(0):
            console.note("epoch 1")
            console.note("epoch 2")
        console.note("epoch 3")
        assert (tmp_path / "train.log").read_text() == "epoch 1\nepoch 2\nepoch 3\n"
    sys.stderr.close()
    with os.fdopen(reading) as stream:
        told = stream.read().strip()
    assert told == "autoseg: warning: the output cannot be written (File too large); the work continues"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_results_that_cannot_be_written_are_an_error_of_the_user() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "autoseg", "planners"]
        done = subprocess.run(command, check=False, timeout=60, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "autoseg: error: cannot write: No space left on device; free space where the output and temporary files go, "
        "then repeat the command\n"
    )
