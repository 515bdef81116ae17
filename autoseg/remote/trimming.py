"""Keeps the cache below its size: removes what can be fetched or made again, what was used last at the end."""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from autoseg.processes.fold_lock import try_lock
from autoseg.remote.cache_folder import find_cache, read_size_limit
from autoseg.remote.local_files import find_use_lock
from autoseg.remote.mirror import (
    KEPT_LOCAL,
    UrlMirror,
    find_mirror,
    is_fetched_late,
    is_placeholder,
    write_placeholder,
)

logger = logging.getLogger(__name__)

SHARE_BETWEEN_LOOKS: Final = 1 / 64  # of the size, by which each process may exceed it
SHARE_KEPT: Final = 7 / 8
BLOCK_BYTES: Final = 512  # POSIX: the unit of st_blocks


@dataclass(slots=True)
class _Meter:
    """Counts what this process has fetched since it last looked at the size of the cache."""

    bytes_fetched: float = 0.0

    def count(self, size_bytes: int, *, most_bytes: float) -> bool:
        """Counts further bytes; returns whether it is time to look."""
        self.bytes_fetched += size_bytes
        if self.bytes_fetched <= most_bytes:
            return False
        self.bytes_fetched = 0.0
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Removable:
    """A file that can be fetched again, or preprocessed data that can be made again.

    Attributes:
        used: Time of the last use.
        name: Name of the file below the URL; None for preprocessed data.
    """

    mirror: UrlMirror
    path: Path
    size_bytes: int
    used: float
    name: str | None = None

    def remove(self) -> bool:
        """Removes it unless a process uses it; returns whether it did."""
        lock = self.mirror.in_use if self.name is None else find_use_lock(self.mirror.folder, self.path)
        with try_lock(lock) as is_held:
            if not is_held:
                return False
            if self.name is None:
                shutil.rmtree(self.path, ignore_errors=True)
                return True
            return self._replace(self.name)

    def _replace(self, name: str) -> bool:
        """Replaces a file by a placeholder, unless it was changed since it was fetched or published."""
        with try_lock(self.mirror.sync_lock) as is_held:
            index = self.mirror.read_index() if is_held else {}
            known = index.get(name)
            if known is None or known.local_ns != self.path.stat().st_mtime_ns:
                return False
            if known.local_ns != known.modified_ns:
                index[name] = known.model_copy(update={"local_ns": known.modified_ns})
                self.mirror.write_index(index)
            write_placeholder(self.path, known)
        return True


def note_fetched(size_bytes: int) -> None:
    """Counts bytes that were fetched, and trims the cache now and then."""
    if _find_meter().count(size_bytes, most_bytes=read_size_limit() * SHARE_BETWEEN_LOOKS):
        trim_cache()


def trim_cache() -> None:
    """Removes what was not used for the longest time, if the cache is larger than it may be.

    Kept are files that are not published yet, those that a process reads, and preprocessed data of runs in use.
    """
    limit = read_size_limit()
    size_bytes = measure_cache()
    if size_bytes <= limit:
        return
    removable = [entry for mirror in _list_mirrors() for entry in _list_removable(mirror)]
    for entry in sorted(removable, key=lambda entry: entry.used):
        if size_bytes <= limit * SHARE_KEPT:
            return
        size_bytes -= entry.size_bytes if entry.remove() else 0
    if size_bytes > limit:
        logger.warning(
            "the cache %s holds %.1f GB, more than its %.1f GB: the rest is in use, not published yet, or small files",
            *(find_cache(), size_bytes / 1e9, limit / 1e9),
        )


def measure_cache() -> int:
    """Measures how many bytes the cache holds on the disk."""
    return sum(_count_bytes(found) for found in _walk(find_cache()))


@cache
def _find_meter() -> _Meter:
    return _Meter()


def _list_mirrors() -> Iterator[UrlMirror]:
    for record in sorted(find_cache().glob("*.json")):
        mirror = find_mirror(record.with_suffix("") / "files")
        if mirror is not None:
            yield mirror


def _list_removable(mirror: UrlMirror) -> Iterator[_Removable]:
    for name, found in mirror.list_local(is_partial=True).items():
        if is_fetched_late(name) and not is_placeholder(found):
            size_bytes, path = _count_bytes(found), mirror.base / name
            yield _Removable(mirror=mirror, path=path, size_bytes=size_bytes, used=found.st_atime, name=name)
    arrays = mirror.root / KEPT_LOCAL
    if arrays.is_dir() and mirror.in_use.exists():
        size_bytes = sum(_count_bytes(found) for found in _walk(arrays))
        yield _Removable(mirror=mirror, path=arrays, size_bytes=size_bytes, used=mirror.in_use.stat().st_mtime)


def _walk(folder: Path) -> Iterator[os.stat_result]:
    for place, _, names in os.walk(folder):
        yield from _try_stat(Path(place, name) for name in names)


def _try_stat(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    for path in paths:
        try:
            yield path.stat()
        except FileNotFoundError:  # removed meanwhile
            continue


def _count_bytes(found: os.stat_result) -> int:
    blocks: int | None = getattr(found, "st_blocks", None)  # Windows tells none
    return found.st_size if blocks is None else blocks * BLOCK_BYTES
