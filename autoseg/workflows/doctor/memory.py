"""Checks of memory: RAM, limits of a container, swap, shared memory."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from autoseg.document import Part
from autoseg.runtime.host_memory import MemoryLimit, count_killed_processes, read_memory_limit
from autoseg.workflows.doctor.finding import Finding, format_size

SHARED_MEMORY: Final = Path("/dev/shm")
LEAST_RAM_BYTES: Final = 10**9  # autoseg and PyTorch take 0.6 GB before any image is read (measured)
USUAL_RAM_BYTES: Final = 6 * 10**9  # guess: a 3D training with worker processes on CT volumes
LARGEST_SWAP_SHARE: Final = 0.25  # guess: of the RAM
USUAL_SHARED_BYTES: Final = 10**9  # guess: two batches of 3D patches, ready for each of several worker processes


class MemoryFacts(Part):
    """Memory of a machine.

    Attributes:
        limit: The smallest limit of a container or job; None without one.
        killed: Number of processes that this limit has ended so far.
        shared_bytes, shared_free_bytes: Size of the file system for shared memory; None where there is none.
        needs_shared_memory: Whether this operating system has shared memory as a file system.
    """

    total_bytes: int
    available_bytes: int
    limit: MemoryLimit | None
    killed: int
    swap_used_bytes: int
    shared_bytes: int | None
    shared_free_bytes: int | None
    is_shared_writable: bool
    needs_shared_memory: bool


def measure_memory(folder: Path) -> MemoryFacts:
    """Measures RAM, limits, swap and shared memory."""
    del folder
    ram = psutil.virtual_memory()
    shared = psutil.disk_usage(str(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else None
    return MemoryFacts(
        total_bytes=ram.total,
        available_bytes=ram.available,
        limit=read_memory_limit(),
        killed=count_killed_processes(),
        swap_used_bytes=psutil.swap_memory().used,
        shared_bytes=shared.total if shared else None,
        shared_free_bytes=shared.free if shared else None,
        is_shared_writable=os.access(SHARED_MEMORY, os.W_OK),
        needs_shared_memory=sys.platform.startswith("linux"),
    )


def check_ram(memory: MemoryFacts) -> Iterator[Finding]:
    """Checks the free RAM, within the limit of a container or job."""
    available, where = memory.available_bytes, f"{format_size(memory.total_bytes)} in this machine"
    if memory.limit is not None and memory.limit.limit_bytes < memory.total_bytes:
        available = min(available, memory.limit.left_bytes)
        where = f"limit of this container or job {format_size(memory.limit.limit_bytes)}, {where}"
    found = f"{format_size(max(0, available))} free ({where})"
    remedy = "close other programs, or ask for more memory (docker run --memory=32g, sbatch --mem=32G)"
    if available < LEAST_RAM_BYTES:
        meaning = (
            "autoseg and PyTorch alone take 0.6 GB: commands are killed by the operating system, without a message"
        )
        yield Finding(state="will fail", subject="RAM", found=found, meaning=meaning, remedy=remedy)
    elif available < USUAL_RAM_BYTES:
        meaning = "large volumes or many worker processes may not fit; what does not is killed, without a message"
        remedy += ", or give fewer --workers"
        yield Finding(state="warning", subject="RAM", found=found, meaning=meaning, remedy=remedy)
    else:
        yield Finding(state="ok", subject="RAM", found=found)


def check_killed_processes(memory: MemoryFacts) -> Iterator[Finding]:
    """Checks whether the memory limit of a container has already ended processes."""
    if memory.killed:
        yield Finding(
            state="warning",
            subject="RAM",
            found=f"the memory limit of this container or job has ended processes {memory.killed} times",
            meaning="a training or preprocessing that vanished without a message probably was one of them",
            remedy="ask for more memory, or give fewer --workers",
        )


def check_swap(memory: MemoryFacts) -> Iterator[Finding]:
    """Checks the use of swap."""
    found = f"{format_size(memory.swap_used_bytes)} in use"
    if memory.swap_used_bytes > LARGEST_SWAP_SHARE * memory.total_bytes:
        meaning = "memory is short: what is swapped out is a hundred times as slow"
        remedy = "close other programs; `top` shows which take the memory"
        yield Finding(state="warning", subject="swap", found=found, meaning=meaning, remedy=remedy)
    else:
        yield Finding(state="ok", subject="swap", found=found)


def check_shared_memory(memory: MemoryFacts) -> Iterator[Finding]:
    """Checks the file system through which worker processes hand patches over."""
    if not memory.needs_shared_memory:
        return
    if memory.shared_bytes is None or memory.shared_free_bytes is None or not memory.is_shared_writable:
        yield Finding(
            state="warning",
            subject="shared memory",
            found=f"{SHARED_MEMORY} is missing or not writable",
            meaning="processes that work together need it for locks and for patches; without it, one process does "
            "all the work, which is slower",
            remedy=f"mount a tmpfs at {SHARED_MEMORY} (in a container: docker run --shm-size=8g)",
        )
        return
    found = f"{format_size(memory.shared_free_bytes)} of {format_size(memory.shared_bytes)} free in {SHARED_MEMORY}"
    if memory.shared_free_bytes >= USUAL_SHARED_BYTES:
        yield Finding(state="ok", subject="shared memory", found=found)
        return
    yield Finding(
        state="warning",
        subject="shared memory",
        found=found,
        meaning="worker processes of a training on the CPU hand patches over through it; containers get 64 MB by "
        "default, which 3D patches fill",
        remedy="docker run --shm-size=8g or --ipc=host (Kubernetes: an emptyDir of medium Memory at /dev/shm), or "
        "train with --workers 0",
        source="https://docs.docker.com/reference/cli/docker/container/run/",
    )
