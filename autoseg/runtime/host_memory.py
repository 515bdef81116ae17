"""Keeps freed memory in the process, so that large arrays are not requested anew from the operating system."""

import ctypes
import logging
import sys
from typing import Final

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


_largest_kept_bytes = 0


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
