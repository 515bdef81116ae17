"""The RAM that there is, and freed memory that stays in the process, lest large arrays are requested anew."""

import ctypes
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

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
CGROUP_MEMORY: Final = Path("/sys/fs/cgroup/memory.max")


_largest_kept_bytes = 0


def find_available_ram(limit: Path = CGROUP_MEMORY) -> int:
    """Returns the RAM that this process may use, which a container or job may limit."""
    total = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):  # no Linux, an older kernel, no limit ("max")
        return min(total, int(limit.read_text()))
    return total


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
