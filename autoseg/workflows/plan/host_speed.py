"""The speed of this computer's CPU: measured once, then cached."""

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import autoseg
from autoseg.document import Document, Part
from autoseg.fingerprint import DeviceThroughput
from autoseg.runtime.cpu_time import count_usable_cpus
from autoseg.runtime.measurement_cache import find_cpu_name, find_measurement, read_measurement, write_measurement

THREADS_VARIABLE: Final = "OMP_NUM_THREADS"


class HostCircumstances(Part):
    """All that the measured speed depends on, as far as it can be known without loading torch."""

    processor: str
    cores: int
    threads_variable: str
    torch: str
    autoseg: str


class HostRecord(Document):
    """A cached measurement."""

    schema_version: Literal[1] = 1
    circumstances: HostCircumstances
    host: DeviceThroughput


def find_host_speed(memory: Path, *, measure: Callable[[], DeviceThroughput]) -> DeviceThroughput:
    """Returns the cached measurement of this computer, or a new one, which is then cached if nothing disturbed it.

    Args:
        memory: Folder of the cache; if it cannot be written, every call measures, which is announced.
        measure: Takes seconds.
    """
    circumstances = find_circumstances()
    path = find_measurement(memory, circumstances)
    record = read_measurement(path, HostRecord)
    if record is not None and record.circumstances == circumstances:
        return record.host
    host = measure()
    if host.is_undisturbed:
        write_measurement(path, HostRecord(circumstances=circumstances, host=host), what="the speed of the CPU")
    return host


def find_circumstances() -> HostCircumstances:
    """Returns the circumstances of this process."""
    return HostCircumstances(
        processor=find_cpu_name(),
        cores=count_usable_cpus(),
        threads_variable=os.environ.get(THREADS_VARIABLE, ""),
        torch=version("torch"),
        autoseg=autoseg.__version__,
    )
