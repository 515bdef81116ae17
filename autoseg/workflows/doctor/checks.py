"""The table of checks, and the examination that carries them out."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from autoseg.document import Part
from autoseg.remote.mirror import find_location
from autoseg.workflows.doctor.accelerator import (
    check_compiler,
    check_cuda,
    check_devices,
    check_driver,
    check_openmp,
    check_torch,
    explain_torch_failure,
    measure_driver,
    measure_torch,
)
from autoseg.workflows.doctor.cores import check_cores, check_settings, measure_cores
from autoseg.workflows.doctor.disk import (
    check_cache,
    check_file_clock,
    check_speed,
    check_temporary_folder,
    check_writing,
    measure_disk,
)
from autoseg.workflows.doctor.finding import DoctorReport, Finding
from autoseg.workflows.doctor.isolation import Measurement, NoAnswerError
from autoseg.workflows.doctor.libraries import (
    check_cluster,
    check_known_problems,
    check_python,
    check_requirements,
    check_tested_versions,
    measure_libraries,
)
from autoseg.workflows.doctor.memory import (
    check_killed_processes,
    check_ram,
    check_shared_memory,
    check_swap,
    measure_memory,
)
from autoseg.workflows.doctor.remote_cache import check_remote_cache, measure_remote_cache
from autoseg.workflows.doctor.run_needs import check_needs, check_planned_memory, check_space, measure_needs
from autoseg.workflows.doctor.system import (
    check_clock,
    check_encoding,
    check_open_files,
    check_processes,
    measure_system,
)

MOST_SECONDS: Final = 9.0  # from the start of the process to the end of all measurements
LEAST_SECONDS: Final = 4.0  # for the measurements, even if the start took long
AnyMeasure = Callable[[Path], Part]


@dataclass(frozen=True, slots=True)
class Check:
    """A check: a function of measured facts, and the measurements that it needs.

    Attributes:
        judge: Yields findings; none where it does not apply.
        measures: Measure the arguments of `judge`, in their order.
    """

    judge: Callable[..., Iterator[Finding]]
    measures: tuple[AnyMeasure, ...]

    def examine(self, results: Mapping[AnyMeasure, Part | NoAnswerError]) -> list[Finding]:
        """Judges the facts; nothing if one of the measurements has failed, which is reported by itself."""
        facts = [results[measure] for measure in self.measures]
        return [] if any(isinstance(fact, NoAnswerError) for fact in facts) else list(self.judge(*facts))


CHECKS: Final = (
    Check(check_python, (measure_libraries,)),
    Check(check_requirements, (measure_libraries,)),
    Check(check_tested_versions, (measure_libraries,)),
    Check(check_known_problems, (measure_libraries,)),
    Check(check_cluster, (measure_libraries,)),
    Check(check_openmp, (measure_torch,)),
    Check(check_torch, (measure_torch,)),
    Check(check_driver, (measure_driver,)),
    Check(check_cuda, (measure_torch, measure_driver)),
    Check(check_devices, (measure_torch,)),
    Check(check_planned_memory, (measure_needs, measure_torch)),
    Check(check_compiler, (measure_torch,)),
    Check(check_cores, (measure_cores,)),
    Check(check_settings, (measure_cores,)),
    Check(check_ram, (measure_memory,)),
    Check(check_killed_processes, (measure_memory,)),
    Check(check_swap, (measure_memory,)),
    Check(check_shared_memory, (measure_memory,)),
    Check(check_needs, (measure_needs,)),
    Check(check_space, (measure_needs, measure_disk)),
    Check(check_speed, (measure_disk,)),
    Check(check_writing, (measure_disk,)),
    Check(check_temporary_folder, (measure_disk,)),
    Check(check_cache, (measure_disk,)),
    Check(check_remote_cache, (measure_remote_cache,)),
    Check(check_open_files, (measure_system,)),
    Check(check_processes, (measure_system,)),
    Check(check_encoding, (measure_system,)),
    Check(check_clock, (measure_system,)),
    Check(check_file_clock, (measure_disk,)),
)
"""All checks in the order of the report, one row each."""

ISOLATED: Final[tuple[AnyMeasure, ...]] = (measure_torch, measure_disk, measure_needs)
"""Measurements that may hang or crash, and therefore have a process of their own."""


def examine_machine(
    folder: Path, *, checks: Iterable[Check] = CHECKS, isolated: Collection[AnyMeasure] = ISOLATED
) -> DoctorReport:
    """Examines this machine for work in a folder, within ten seconds.

    Args:
        folder: A run, a dataset, or a folder where a run is going to be.
        checks: The checks to carry out.
        isolated: Measurements that are made in processes of their own.
    """
    begin, rows = time.monotonic(), tuple(checks)
    needed = dict.fromkeys(measure for check in rows for measure in check.measures)
    results = measure_all(tuple(needed), folder, isolated=isolated, limit_seconds=_find_remaining_seconds())
    findings = [finding for check in rows for finding in check.examine(results)]
    findings += [
        explain_torch_failure(error) if measure is measure_torch else _report_failure(measure, error)
        for measure, error in results.items()
        if isinstance(error, NoAnswerError)
    ]
    return DoctorReport(folder=find_location(folder), seconds=time.monotonic() - begin, findings=tuple(findings))


def measure_all(
    measures: Sequence[AnyMeasure], folder: Path, *, isolated: Collection[AnyMeasure], limit_seconds: float
) -> dict[AnyMeasure, Part | NoAnswerError]:
    """Makes measurements, those in processes of their own at the same time as the others."""
    end = time.monotonic() + limit_seconds
    running = {measure: Measurement(measure, folder) for measure in measures if measure in isolated}
    results: dict[AnyMeasure, Part | NoAnswerError] = {}
    for measure in measures:
        if measure not in running:
            results[measure] = _measure_here(measure, folder)
    for measure, measurement in running.items():
        try:
            results[measure] = measurement.wait(end - time.monotonic())
        except NoAnswerError as error:
            results[measure] = error
    return results


def _measure_here(measure: AnyMeasure, folder: Path) -> Part | NoAnswerError:
    try:
        return measure(folder)
    except Exception as error:  # whatever it is, the other measurements are of use
        return NoAnswerError(f"{type(error).__name__}: {error}")


def _find_remaining_seconds() -> float:
    """Finds the time for measurements, so that the whole command takes less than ten seconds, its start included."""
    used = time.time() - psutil.Process().create_time()
    return max(LEAST_SECONDS, MOST_SECONDS - (used if 0 < used < MOST_SECONDS else 0.0))


def _report_failure(measure: AnyMeasure, error: NoAnswerError) -> Finding:
    return Finding(
        state="warning",
        subject=measure.__name__.removeprefix("measure_"),
        found=f"could not be examined: {error}",
        meaning="a file system or the driver does not answer, the machine is very busy, or the examination is at fault",
        remedy="repeat the command; if it stays so, examine another folder, to see whether it is the file system",
    )
