"""Runs a command and measures its wall time and the peak memory of its whole process tree."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLING_SECONDS = 0.05
SAMPLING_SHARE = 0.02
"""Of the time that has passed, between two looks at a long command: each look costs milliseconds of the cores that the
command is to have for itself."""
LONGEST_SAMPLING_SECONDS = 0.5
SECONDS_PER_SECOND_OF_LOOKING = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of a command.

    Attributes:
        peak_bytes: Largest sum of the proportional set sizes of all processes of the tree (shared pages count once).
    """

    seconds: float
    peak_bytes: int
    exit_code: int

    @property
    def peak_gib(self) -> float:
        """Peak memory in GiB."""
        return self.peak_bytes / 2**30


def measure_command(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> Measurement:
    """Runs a command to its end; its output goes to `log`."""
    started = time.perf_counter()
    peak = 0
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        root = psutil.Process(process.pid)
        while process.poll() is None:
            begun = time.perf_counter()
            peak = max(peak, sum_memory(root))
            looked = time.perf_counter()
            pause = min(LONGEST_SAMPLING_SECONDS, max(SAMPLING_SECONDS, SAMPLING_SHARE * (looked - started)))
            time.sleep(max(pause, SECONDS_PER_SECOND_OF_LOOKING * (looked - begun)))
    return Measurement(seconds=time.perf_counter() - started, peak_bytes=peak, exit_code=process.wait())


def sum_memory(root: psutil.Process) -> int:
    """Memory of a process and its descendants at this moment."""
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            total += measure_process(process)
    except psutil.NoSuchProcess:
        pass
    return total


def measure_process(process: psutil.Process) -> int:
    """Proportional set size where the system tells it, else the resident set size; 0 for a process that has ended."""
    try:
        full = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    return int(getattr(full, "pss", full.rss))
