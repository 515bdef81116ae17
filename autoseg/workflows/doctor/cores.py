"""Checks of CPU cores, the threads that libraries may use, and settings that make computing slow."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from autoseg.document import Part
from autoseg.runtime.cpu_time import list_cores, read_quota
from autoseg.runtime.measurement_cache import find_cpu_name
from autoseg.workflows.doctor.finding import Finding

SHARE_OF_A_LIMIT: Final = 0.75  # a quota below this share of the cores is worth a word


class CoreFacts(Part):
    """Cores of a machine and settings from environment variables.

    Attributes:
        cores: Number of cores of the machine.
        usable: Number of cores on which this process may run.
        quota: Time that a container or job may use, in cores; None without a limit.
        settings: Values of the variables in `SETTINGS` that are set.
    """

    name: str
    architecture: str
    cores: int
    usable: int
    quota: float | None
    settings: Mapping[str, str]


class SlowSetting(NamedTuple):
    """An environment variable that makes computing slow or hides a device.

    Attributes:
        variable: Name of the variable.
        is_slow: Returns whether a value does harm, given the number of usable cores.
        meaning: Effect of such a value.
    """

    variable: str
    is_slow: Callable[[str, int], bool]
    meaning: str


def _limits(value: str, cores: int) -> bool:
    return value.isdigit() and int(value) < cores


def _exceeds(value: str, cores: int) -> bool:
    return value.isdigit() and int(value) > cores


def _is_on(value: str, cores: int) -> bool:
    del cores
    return value.strip().lower() not in {"", "0", "false", "no", "off"}


SETTINGS: Final = (
    SlowSetting("OMP_NUM_THREADS", _limits, "networks on the CPU and preprocessing use only these threads"),
    SlowSetting("MKL_NUM_THREADS", _limits, "networks on the CPU use only these threads"),
    SlowSetting("OMP_NUM_THREADS", _exceeds, "more threads than cores wait for each other"),
    SlowSetting("MKL_NUM_THREADS", _exceeds, "more threads than cores wait for each other"),
    SlowSetting("OPENBLAS_NUM_THREADS", _exceeds, "more threads than cores wait for each other"),
    SlowSetting("BLOSC_NTHREADS", _exceeds, "more threads than cores wait for each other"),
    SlowSetting(
        "OMP_WAIT_POLICY",
        lambda value, _: value.lower() == "passive",
        "threads on the CPU are 1.2 to 1.9 times as slow",
    ),
    SlowSetting("GOMP_CPU_AFFINITY", _is_on, "all threads of all worker processes may share the cores named"),
    SlowSetting("CUDA_LAUNCH_BLOCKING", _is_on, "the CPU waits for every kernel of the GPU: meant for debugging"),
    SlowSetting(
        "PYTORCH_NO_CUDA_MEMORY_CACHING", _is_on, "GPU memory is requested anew for every tensor: meant for debugging"
    ),
    SlowSetting(
        "CUDA_VISIBLE_DEVICES", lambda value, _: value.strip() in {"", "-1", "none"}, "all NVIDIA GPUs are hidden"
    ),
)
"""Settings that are known to make computing slow, one row each."""


def measure_cores(folder: Path) -> CoreFacts:
    """Measures the cores and reads the settings."""
    del folder
    return CoreFacts(
        name=find_cpu_name(),
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        usable=len(list_cores()),
        quota=read_quota(),
        settings={row.variable: os.environ[row.variable] for row in SETTINGS if row.variable in os.environ},
    )


def check_cores(cores: CoreFacts) -> Iterator[Finding]:
    """Checks how many cores may be used, against those that there are."""
    granted = cores.usable if cores.quota is None else min(float(cores.usable), cores.quota)
    found = f"{cores.cores} cores ({cores.name}), {granted:g} usable"
    if granted >= SHARE_OF_A_LIMIT * cores.cores:
        yield Finding(state="ok", subject="CPU", found=found)
        return
    yield Finding(
        state="ok" if granted >= 2 else "warning",
        subject="CPU",
        found=found,
        meaning="a container or job limits the time or the cores; autoseg computes with as many threads as it may use",
        remedy="ask for more cores (docker run --cpus=8, sbatch --cpus-per-task=8) if training waits for patches",
    )


def check_settings(cores: CoreFacts) -> Iterator[Finding]:
    """Checks environment variables that make computing slow."""
    for row in SETTINGS:
        value = cores.settings.get(row.variable)
        if value is not None and row.is_slow(value, cores.usable):
            yield Finding(
                state="warning",
                subject="settings",
                found=f"{row.variable}={value}",
                meaning=row.meaning,
                remedy=f"unset {row.variable}, unless it is meant",
            )
