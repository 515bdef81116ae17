"""Commands work although standard streams were closed before their start."""

import os
import subprocess
import sys

import pytest

from autoseg.cli.terminal.console import build_stop_request, open_closed_streams


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
