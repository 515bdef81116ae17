"""Keeps the cache below its size: removes what can be fetched or made again, what was used last at the end."""

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from autoseg.processes.fold_lock import try_lock
from autoseg.remote.cache_folder import find_cache, read_size_limit
from autoseg.remote.local_files import find_use_lock
from autoseg.remote.mirror import (
    KEPT_LOCAL,
    Mirror,
    SyncedFile,
    find_mirror,
    is_fetched_late,
    is_placeholder,
    write_placeholder,
)

logger = logging.getLogger(__name__)

SHARE_BETWEEN_LOOKS: Final = 1 / 64  # of the size; one process may exceed it by as much
SHARE_KEPT: Final = 7 / 8
BLOCK_BYTES: Final = 512  # POSIX: the unit of st_blocks


@dataclass(slots=True)
class _Meter:
    """Counts what this process has fetched since it last looked at the size of the cache."""

    bytes_fetched: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _Removable:
    """Something that can be fetched or made again; ordered by the time of its last use."""

    used: float
    path: Path
    size_bytes: int
    known: SyncedFile | None = None

    def remove(self, mirror: Mirror) -> bool:
        """Removes it unless a process uses it; returns whether it did."""
        if self.known is None:
            with try_lock(mirror.in_use) as is_held:
                if is_held:
                    shutil.rmtree(self.path, ignore_errors=True)
                return is_held
        with try_lock(find_use_lock(mirror.folder, self.path)) as is_held:
            if is_held and self.path.stat().st_mtime_ns == self.known.local_ns:
                write_placeholder(self.path, self.known)
            return is_held


def note_fetched(size_bytes: int) -> None:
    """Counts bytes that were fetched, and trims the cache now and then."""
    meter = _find_meter()
    meter.bytes_fetched += size_bytes
    if meter.bytes_fetched > read_size_limit() * SHARE_BETWEEN_LOOKS:
        meter.bytes_fetched = 0.0
        trim_cache()


def trim_cache() -> None:
    """Removes what was not used for the longest time, if the cache is larger than it may be.

    Kept are files that are not published yet, those that a process reads, and preprocessed data of runs in use.
    """
    limit = read_size_limit()
    size_bytes, mirrors = (
        0,
        [mirror for path in find_cache().glob("*.json") if (mirror := find_mirror(path.with_suffix("") / "files"))],
    )
    removable: list[tuple[_Removable, Mirror]] = []
    for mirror in mirrors:
        occupied = sum(_count_bytes(found) for _, found in _walk(mirror.folder))
        size_bytes += occupied
    if size_bytes <= limit:
        return
    for mirror in mirrors:
        removable += [(entry, mirror) for entry in _list_removable(mirror)]
    for entry, mirror in sorted(removable, key=lambda pair: pair[0].used):
        if size_bytes <= limit * SHARE_KEPT:
            return
        if entry.remove(mirror):
            size_bytes -= entry.size_bytes
    if size_bytes > limit:
        logger.warning(
            "the cache %s holds %.1f GB, more than its %.1f GB: the rest is in use, or not published yet",
            find_cache(),
            size_bytes / 1e9,
            limit / 1e9,
        )


@cache
def _find_meter() -> _Meter:
    return _Meter()


def _count_bytes(found: os.stat_result) -> int:
    blocks: int | None = getattr(found, "st_blocks", None)  # Windows tells none
    return found.st_size if blocks is None else blocks * BLOCK_BYTES


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            try:
                yield path, path.stat()
            except FileNotFoundError:  # removed meanwhile
                continue


def _list_removable(mirror: Mirror) -> Iterator[_Removable]:
    index = mirror.read_index()
    arrays = mirror.root / KEPT_LOCAL
    for name, found in mirror.list_local().items():
        known = index.get(name)
        if is_placeholder(found) or not is_fetched_late(name) or known is None or known.local_ns != found.st_mtime_ns:
            continue
        yield _Removable(used=found.st_atime, path=mirror.base / name, size_bytes=_count_bytes(found), known=known)
    if arrays.is_dir():
        size_bytes = sum(_count_bytes(found) for _, found in _walk(arrays))
        used = mirror.in_use.stat().st_mtime if mirror.in_use.exists() else 0.0
        yield _Removable(used=used, path=arrays, size_bytes=size_bytes)
