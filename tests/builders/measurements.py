"""Measurements for an examination of the machine: one that succeeds, others that go wrong in every way."""

import os
import signal
import sys
import time
from pathlib import Path

from autoseg.document import Part


class Facts(Part):
    """A measured number."""

    number: int


def measure_well(folder: Path) -> Facts:
    """Succeeds, after libraries have printed something."""
    sys.stdout.write("a library says hello\n")
    sys.stderr.write("and so does another\n")
    return Facts(number=len(folder.name))


def measure_and_hang(folder: Path) -> Facts:
    """Hangs, as a file system whose server is gone, and ignores requests to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    return Facts(number=0)


def measure_and_crash(folder: Path) -> Facts:
    """Ends the process, as a broken library does."""
    os.kill(os.getpid(), signal.SIGKILL)
    return Facts(number=0)


def measure_and_fail(folder: Path) -> Facts:
    """Raises an error that nobody foresaw."""
    msg = "the disk is on fire"
    raise ValueError(msg)
