"""Runs commands as child processes, each in a process group of its own that is ended as a whole."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from autoseg.processes.parent_watch import WATCHES_INPUT
from autoseg.run_folder import make_folder, translate_write_errors

SECONDS_TO_STOP: Final = 15.0  # where there is nothing left to save
SECONDS_BETWEEN_LOOKS: Final = 0.1
SECONDS_TO_DIE: Final = 60.0  # after SIGKILL; a process that waits for a broken disk or network drive may never end
NEW_GROUP: Final[int] = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # Windows; elsewhere a session does it
ERROR_PREFIX: Final = "autoseg: error: "
MOST_LOG_BYTES: Final = 1 << 16
AFTER_ERROR: Final = re.compile(
    r"[DIWEF]\d{4} |\[(rank|default)\d+\]:|Traceback |[=-]{10,}\s*$|Root Cause|\S+\.py:\d+: "
)
"""Beginnings of lines of torchrun and other processes, which may follow an error in the log that they share."""
KILLED: Final = re.compile(r"Signal \d+ \((SIGKILL|SIGSEGV|SIGBUS|SIGABRT)\) received by PID")
"""Report of torchrun, which ends with the exit code 1 itself, on a process that was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A running command.

    Attributes:
        log: File that receives its output.
    """

    process: "subprocess.Popen[bytes]"
    log: Path

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal; None while the command runs."""
        code = self.process.poll()
        if code is not None and self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def interrupt(self) -> None:
        """Asks the command and all its processes to stop, like Ctrl-C."""
        if sys.platform == "win32":
            self.process.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self._signal_group(signal.SIGINT)

    def kill(self) -> None:
        """Kills the command and all its remaining processes."""
        if sys.platform == "win32":
            self.process.kill()
        else:
            self._signal_group(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=SECONDS_TO_DIE)
        self.poll()

    def describe_end(self) -> str:
        """Describes why it failed, from its exit code and the end of its log."""
        code = self.process.returncode
        if code is not None and code < 0:
            return f"{describe_kill(signal.Signals(-code).name)}; log: {self.log}"
        return f"{find_reason(self.log)}; log: {self.log}"

    def rank_end(self) -> int:
        """Ranks how well its end explains the failure of a group of processes; the lowest rank explains it best."""
        if (self.process.returncode or 0) < 0:
            return 0
        return 1 if ERROR_PREFIX in _read_end(self.log) else 2

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # no process is left in the group
            os.killpg(self.process.pid, number)


def start_child(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str], is_continued: bool = False
) -> Child:
    """Starts a command in a process group of its own, so that Ctrl-C on the terminal does not reach it.

    Its standard input is empty, and ends when this process does: `stop_with_parent` of the command stops it then.

    Args:
        command: Program and arguments.
        log: File that receives its output.
        environment: Further environment variables.
        is_continued: Whether the output of an earlier process is kept in the log.

    Raises:
        RunError: The log cannot be written.
    """
    make_folder(log.parent)
    with translate_write_errors(log):
        opened = log.open("ab" if is_continued else "wb")
    with opened as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", WATCHES_INPUT: "1", **environment},
            start_new_session=sys.platform != "win32",
            creationflags=NEW_GROUP,
        )
    return Child(process=process, log=log)


def stop_children(children: Sequence[Child], *, seconds: float) -> None:
    """Interrupts all children, waits for at most `seconds`, and kills those that still run."""
    try:
        for child in children:
            child.interrupt()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(child.poll() is None for child in children):
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        for child in children:
            child.kill()


def find_reason(log: Path) -> str:
    """Returns the reason of a failure at the end of a log: a kill, else the error message, else the last line."""
    text = _read_end(log)
    killed = KILLED.search(text)
    if killed:
        return describe_kill(killed.group(1))
    _, prefix, error = text.rpartition(ERROR_PREFIX)
    lines = [line for line in text.splitlines() if line.strip()]
    if prefix:
        return "\n".join(takewhile(lambda line: not AFTER_ERROR.match(line), error.splitlines())).strip()
    return lines[-1].strip() if lines else "it ended without any output"


def describe_kill(name: str) -> str:
    """Describes the end of a process by a signal of this name."""
    return f"the process was killed ({name}), often for lack of RAM"


def _read_end(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_LOG_BYTES))
        return file.read().decode(errors="replace")
