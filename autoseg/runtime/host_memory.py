"""Memory of the host: how much there is within the limits of a container or job, and freed memory that is kept.

Freed memory is kept so that large arrays are not requested anew from the operating system.
"""

import ctypes
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from autoseg.runtime.cpu_time import CGROUPS, CGROUPS_OF_THIS_PROCESS, list_control_groups

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
# By default, glibc maps every block above 32 MiB anew and unmaps it when it is freed. The kernel then clears each page
# again: on two cores, that was two thirds of the time of a training step of a small 3D U-Net (measured).
LARGEST_KEPT_BLOCK_BYTES: Final = 2**30
# Kept blocks fragment the memory: the C library needs a few bytes more than the gap of an equal block. In prediction
# with large patches, a fifth of the memory was in such gaps; clearing arrays of more than this size takes 8 % of the
# time (measured with features of 150 MiB).
LARGEST_KEPT_IN_PREDICTION_BYTES: Final = 2**27
TRIM_THRESHOLD_BYTES: Final = 2**31 - 1

# Files of a control group that hold its limit and its use: of version 2, then of version 1.
LIMITS: Final = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
CACHED_FILES: Final = (("inactive_file", "active_file"), ("total_inactive_file", "total_active_file"))  # in memory.stat
UNLIMITED_BYTES: Final = 2**60  # version 1 writes nearly 2**63 for "no limit"
EVENTS: Final = ("memory.events", "memory.oom_control")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """Limit on the memory of a container or job.

    Attributes:
        used_bytes: Memory in use by all of its processes, cached files included.
        cached_bytes: Cached files, which the system drops when memory is needed.
    """

    limit_bytes: int
    used_bytes: int
    cached_bytes: int = 0

    @property
    def left_bytes(self) -> int:
        """Memory that processes may still request."""
        return self.limit_bytes - self.used_bytes + self.cached_bytes


_largest_kept_bytes = 0


def find_available_ram(cgroups: Path = CGROUPS, own: Path = CGROUPS_OF_THIS_PROCESS) -> int:
    """Returns the RAM that this process may use, which a container or job may limit."""
    limits = [limit.limit_bytes for limit in _list_limits(cgroups, own)]
    return min([int(psutil.virtual_memory().total), *limits])


def find_free_ram(cgroups: Path = CGROUPS, own: Path = CGROUPS_OF_THIS_PROCESS) -> int:
    """Returns the RAM that is free now, for this process and those that it starts, within the limits on them."""
    left = [limit.left_bytes for limit in _list_limits(cgroups, own)]
    return max(0, min([int(psutil.virtual_memory().available), *left]))


def keep_freed_memory(largest_block_bytes: int = LARGEST_KEPT_BLOCK_BYTES) -> bool:
    """Configures the C library to reuse freed blocks; returns whether that is supported (glibc, most Linux systems).

    The process keeps these blocks until it ends. On other systems nothing changes, which only costs time.

    Args:
        largest_block_bytes: Larger blocks are unmapped when they are freed; the maximum of all calls applies, so that a
            prediction within a training does not change it.
    """
    global _largest_kept_bytes
    _largest_kept_bytes = max(_largest_kept_bytes, largest_block_bytes)
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        logger.debug("the C library has no mallopt")
        return False
    accepted = (
        mallopt(M_MMAP_THRESHOLD, _largest_kept_bytes),
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
    )
    return all(accepted)


def read_memory_limit(cgroups: Path = CGROUPS, own: Path = CGROUPS_OF_THIS_PROCESS) -> MemoryLimit | None:
    """Reads the memory limit of a container or job (docker run --memory) that leaves the least; None without one."""
    limits = _list_limits(cgroups, own)
    return min(limits, key=lambda limit: limit.left_bytes, default=None)


def count_killed_processes(cgroups: Path = CGROUPS, own: Path = CGROUPS_OF_THIS_PROCESS) -> int:
    """Counts how often the memory limit of this container or job has ended a process."""
    counts = [0]
    for group in list_control_groups("memory", cgroups=cgroups, own=own):
        for name in EVENTS:
            with suppress(OSError, ValueError):
                lines = (group / name).read_text().splitlines()
                counts.extend(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return max(counts)


def _list_limits(cgroups: Path, own: Path) -> Iterator[MemoryLimit]:
    for group in list_control_groups("memory", cgroups=cgroups, own=own):
        for limit_file, use_file in LIMITS:
            with suppress(OSError, ValueError):  # no such file, or "max"
                limit, used = int((group / limit_file).read_text()), int((group / use_file).read_text())
                if limit < UNLIMITED_BYTES:
                    yield MemoryLimit(limit_bytes=limit, used_bytes=used, cached_bytes=_count_cached_bytes(group))


def _count_cached_bytes(group: Path) -> int:
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    figures = {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdigit()}
    return max(sum(figures.get(name, 0) for name in names) for names in CACHED_FILES)
