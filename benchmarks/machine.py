"""What the figures depend on."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil


def describe_machine() -> str:
    """CPU, cores, memory, date and load: one line."""
    memory = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    return f"{find_cpu_name()}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {date}, load before {load:.1f}"


def find_cpu_name() -> str:
    """The name of the CPU where the system tells it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
