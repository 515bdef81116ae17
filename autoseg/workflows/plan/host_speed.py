"""The speed of this computer's CPU: measured once, remembered for the next call."""

import hashlib
import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import autoseg
from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import DocumentError, RunError
from autoseg.fingerprint import HostThroughput
from autoseg.runtime.cpu_time import count_usable_cpus
from autoseg.runtime.measurement_cache import find_cpu_name

UNDISTURBED_SHARE: Final = 0.8  # of the cores' time; a measurement that got less is not remembered
THREADS_VARIABLE: Final = "OMP_NUM_THREADS"

logger = logging.getLogger(__name__)


class HostCircumstances(Part):
    """All that the measured speed depends on, as far as it can be known without loading torch."""

    processor: str
    cores: int
    threads_variable: str
    torch: str
    autoseg: str


class HostRecord(Document):
    """A measurement, as it is remembered."""

    schema_version: Literal[1] = 1
    circumstances: HostCircumstances
    host: HostThroughput


def find_host_speed(memory: Path, *, measure: Callable[[], HostThroughput]) -> HostThroughput:
    """The remembered measurement of this computer, or a new one, which is then remembered if nothing disturbed it.

    Args:
        memory: Folder of what is remembered; if it cannot be written, every call measures, which is announced.
        measure: Takes seconds.
    """
    circumstances = find_circumstances()
    path = memory / f"{hashlib.sha256(circumstances.model_dump_json().encode()).hexdigest()[:32]}.json"
    remembered = _recall(path, circumstances)
    if remembered is not None:
        return remembered
    host = measure()
    if host.received_share >= UNDISTURBED_SHARE:
        _remember(path, HostRecord(circumstances=circumstances, host=host))
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


def _recall(path: Path, circumstances: HostCircumstances) -> HostThroughput | None:
    try:
        record = read_document(path, HostRecord)
    except DocumentError:
        return None  # not there, or of another version
    return record.host if record.circumstances == circumstances else None


def _remember(path: Path, record: HostRecord) -> None:
    try:
        write_document(path, record)
    except RunError as error:
        logger.warning("the speed of the CPU is measured in every call: %s", error)
