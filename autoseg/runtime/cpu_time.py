"""CPU time: usable cores of this process, and the time on them that it receives, misses and leaves unused."""

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

CGROUPS: Final = Path("/sys/fs/cgroup")
CGROUPS_OF_THIS_PROCESS: Final = Path("/proc/self/cgroup")
THREADS_OF_THIS_PROCESS: Final = Path("/proc/self/task")
NANOSECONDS: Final = 1e9
LARGEST_SHARE_OF_LOOKS_FOR_CHILDREN: Final = 1 / 200  # of the time: a look reads /proc of every process of the machine


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuReading:
    """CPU times in seconds since an arbitrary moment; two readings give a `CpuUsage`.

    Attributes:
        cores: Number of cores on which this process may run.
        granted: Their time that a container or job may use, in cores.
        unused_seconds: Idle time of these cores, including the time of programs of low priority unless this process is
            one of them.
        own_seconds: CPU time of all threads of this process.
        children_seconds: CPU time of its child processes, including those that have ended.
        waiting_seconds: Time in which threads of this process were ready to run but did not, by thread; None where the
            operating system does not report it.
    """

    cores: int
    granted: float
    wall_seconds: float
    unused_seconds: float
    own_seconds: float
    children_seconds: float
    waiting_seconds: dict[int, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUsage:
    """Usage of the CPU between two readings, in cores (one core: a second of CPU time per second).

    Attributes:
        cores: Number of cores on which this process may run.
        received: Time that this process received.
        missed: Further time that this process could have used if no other program had run; its own child processes do
            not count as other programs.
        unused: Time that no program of normal priority used.
        foreign: Time that other programs used.
    """

    cores: int
    received: float
    missed: float
    unused: float
    foreign: float


class CpuClock:
    """Reads the CPU time of this process, its children and the machine."""

    def __init__(self) -> None:
        self._quota = read_quota() or math.inf
        self._process = psutil.Process()
        self._children: list[psutil.Process] = []
        self._look_again = -math.inf
        self._seconds_of_children = 0.0

    def read(self) -> CpuReading:
        """Reads the CPU times; takes less than a millisecond."""
        cores = list_cores()
        return CpuReading(
            cores=len(cores),
            granted=min(float(len(cores)), self._quota),
            wall_seconds=time.monotonic(),
            unused_seconds=_read_unused_seconds(cores),
            own_seconds=time.process_time(),
            children_seconds=self._read_children(),
            waiting_seconds=_read_waiting_seconds(),
        )

    def _read_children(self) -> float:
        begin = time.monotonic()
        if begin >= self._look_again:
            self._children = self._process.children(recursive=True)
            end = time.monotonic()
            self._look_again = end + (end - begin) / LARGEST_SHARE_OF_LOOKS_FOR_CHILDREN
        times = os.times()
        seconds = times.children_user + times.children_system
        for child in self._children:
            try:
                used = child.cpu_times()
            except psutil.Error:  # it has ended
                continue
            # Includes its own children that have ended, such as workers whose parent is the fork server.
            seconds += used.user + used.system + used.children_user + used.children_system
        self._seconds_of_children = max(seconds, self._seconds_of_children)  # one that was not waited for takes none
        return self._seconds_of_children


def compare_readings(earlier: CpuReading, later: CpuReading) -> CpuUsage:
    """Computes the CPU usage between two readings."""
    cores, granted = later.cores, later.granted
    seconds = later.wall_seconds - earlier.wall_seconds
    received = (later.own_seconds - earlier.own_seconds) / seconds
    children = (later.children_seconds - earlier.children_seconds) / seconds
    idle = (later.unused_seconds - earlier.unused_seconds) / seconds
    foreign = max(0.0, cores - idle - received - children)
    left = max(0.0, granted - received - children)
    waiting = _sum_waiting(earlier.waiting_seconds, later.waiting_seconds)
    # Where the system does not report waiting threads, everything that others used counts as missed.
    could_use = foreign if waiting is None else waiting / seconds
    return CpuUsage(
        cores=cores, received=received, missed=min(left, could_use), unused=min(left, idle), foreign=foreign
    )


def count_usable_cpus() -> int:
    """Counts the cores that this process may use, which a container or job may limit."""
    quota = read_quota()
    return len(list_cores()) if quota is None else max(1, min(len(list_cores()), math.ceil(quota)))


def list_cores() -> list[int]:
    """Lists the indices of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def read_quota(cgroups: Path = CGROUPS, own: Path = CGROUPS_OF_THIS_PROCESS) -> float | None:
    """Reads the CPU quota of a container or job (docker run --cpus) in cores, which the affinity does not show.

    It is the smallest quota of this process's control group and its parents, of either version of control groups; None
    without a limit, or on a system without control groups.
    """
    groups = list_control_groups("cpu", cgroups=cgroups, own=own)
    return min((quota for group in groups for quota in (_read_quota_of_group(group),) if quota), default=None)


def list_control_groups(
    controller: str, *, cgroups: Path = CGROUPS, own: Path = CGROUPS_OF_THIS_PROCESS
) -> Iterator[Path]:
    """Yields the folders of this process's control group and its parents, of either version of control groups.

    Args:
        controller: Kind of the limit: "cpu", "memory" or "pids".
        cgroups: Folder where control groups are mounted.
        own: File that names the groups of this process.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        for root in (cgroups / controllers,) if controllers else (cgroups, cgroups / "unified"):
            group = root / place.strip("/")
            # A container sees its own group as the root, though the name of the group may be that outside of it.
            yield from (path for path in (group, *group.parents) if path.is_relative_to(root))


def _read_quota_of_group(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, a file of another form
        return None


def _read_unused_seconds(cores: Sequence[int]) -> float:
    times = psutil.cpu_times(percpu=True)
    # Where a core is offline, or a container shows only its own cores, indices and positions differ.
    own = [times[core] for core in cores] if max(cores) < len(times) else times
    yielding = () if _has_low_priority() else ("nice",)
    return sum(float(getattr(core, name, 0.0)) for core in own for name in ("idle", "iowait", *yielding))


def _has_low_priority() -> bool:
    """Returns whether this process has low priority itself; programs of low priority then count like any other."""
    return hasattr(os, "getpriority") and os.getpriority(os.PRIO_PROCESS, 0) > 0


def _read_waiting_seconds() -> dict[int, float] | None:
    """Reads /proc/PID/task/TID/schedstat of Linux's scheduler: running time, waiting time (ns) and time slices."""
    waiting = {}
    try:
        for thread in os.listdir(THREADS_OF_THIS_PROCESS):  # noqa: PTH208  # 20 times as fast as Path.iterdir
            try:
                content = (THREADS_OF_THIS_PROCESS / thread / "schedstat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            waiting[int(thread)] = int(content.split()[1]) / NANOSECONDS
    except (OSError, ValueError, IndexError):  # another system, or a kernel built without these figures
        return None
    return waiting or None


def _sum_waiting(earlier: dict[int, float] | None, later: dict[int, float] | None) -> float | None:
    if earlier is None or later is None:
        return None
    return sum(seconds - earlier.get(thread, 0.0) for thread, seconds in later.items())
