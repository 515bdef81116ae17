"""Brings a mirror up to date with its URL, and publishes what was changed in it."""

import filecmp
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from autoseg.errors import RemoteError
from autoseg.files.temporary_files import name_temporary
from autoseg.remote.local_files import MIRROR_NAMES, TRANSFERS_AT_ONCE
from autoseg.remote.mirror import (
    SyncedFile,
    UrlMirror,
    is_fetched_late,
    is_placeholder,
    is_set_aside,
    open_mirror,
    write_placeholder,
)
from autoseg.remote.store import RemoteVersion

GUARDED: Final = "models/"
"""Start of the names of files in which nothing is replaced that another computer has written meanwhile."""


class Synchronizer:
    """Keeps a mirror and its URL equal for the duration of a command."""

    def __init__(self, mirror: UrlMirror, *, restores: bool = True) -> None:
        """Opens the place of the files.

        Args:
            mirror: The mirror.
            restores: Whether files that are missing in the mirror are fetched again. Not while another command uses it,
                which may have removed them and not published that yet.

        Raises:
            RemoteError: The URL cannot be used.
        """
        self._mirror = mirror
        self._restores = restores
        self._store = mirror.open_store()
        self._index: dict[str, SyncedFile] = {}
        self._seen: set[str] = set()

    def pull(self) -> None:
        """Takes over what has changed at the URL; large files become placeholders, unpublished changes are kept.

        Raises:
            RemoteError: The URL cannot be read, or another computer has written an unpublished file of a training.
        """
        with self._open_index():
            listed, local = self._mirror.list_store(self._store), self._mirror.list_local()
            for name in [name for name in self._index if name not in listed]:
                self._forget(name, local.get(name))
            wanted = [name for name, version in listed.items() if self._must_take(name, version, local.get(name))]
            late = [name for name in wanted if is_fetched_late(name) and not self._mirror.record.is_file]
            for name in late:
                write_placeholder(self._mirror.base / name, listed[name])
                self._remember(name, listed[name], listed[name].modified_ns)
            _transfer(self._take, sorted(set(wanted) - set(late)))
            self._seen |= set(wanted) | (set(listed) & set(local))
            MIRROR_NAMES.forget()

    def push(self) -> int:
        """Publishes what has changed in the mirror; returns the number of files.

        What was there when the command began, or since, and was removed is removed at the URL, too; a training that is
        set aside, to begin again, only when it has begun, as what was not fetched of it is at the URL alone.

        Raises:
            RemoteError: The URL cannot be written, or another computer has written a file of the same training.
        """
        if not self._mirror.root.exists():
            return 0
        with self._open_index():
            local = self._mirror.list_local()
            changed = [name for name, found in local.items() if self._is_changed(name, found)]
            changed.sort(key=lambda name: (name.endswith(".json"), local[name].st_mtime_ns))
            for _, names in itertools.groupby(changed, key=lambda name: name.endswith(".json")):
                # Documents come last, as they tell that other files are complete.
                _transfer(lambda name: self._publish(name, local[name]), names)
            gone = [name for name in self._index if name in self._seen and name not in local and self._has_gone(name)]
            _transfer(self._retract, gone)
            self._seen |= set(local)
        return len(changed) + len(gone)

    @contextmanager
    def _open_index(self) -> Iterator[None]:
        with self._mirror.lock():
            self._index = self._mirror.read_index()
            before = dict(self._index)
            try:
                yield
            finally:
                if self._index != before:
                    self._mirror.write_index(self._index)

    def _remember(self, name: str, version: RemoteVersion, local_ns: int) -> None:
        self._index[name] = SyncedFile(**dict(version), local_ns=local_ns)

    def _is_changed(self, name: str, found: os.stat_result) -> bool:
        known = self._index.get(name)
        is_same = known is not None and (found.st_size, found.st_mtime_ns) == (known.size_bytes, known.local_ns)
        return not is_same and not is_placeholder(found)

    def _forget(self, name: str, found: os.stat_result | None) -> None:
        """Removes what has gone at the URL, unless it was changed here."""
        if found is not None and not self._is_changed(name, found):
            (self._mirror.base / name).unlink(missing_ok=True)
        del self._index[name]

    def _must_take(self, name: str, version: RemoteVersion, found: os.stat_result | None) -> bool:
        known = self._index.get(name)
        if known is not None and known.is_same(version):
            return found is None and self._restores
        if found is None:
            return True
        if not self._is_changed(name, found):
            return True
        if self._has_same_content(name, version, found):
            self._remember(name, version, found.st_mtime_ns)
            return False
        if name.startswith(GUARDED):
            raise RemoteError(self._describe_conflict(name))
        return version.modified_ns > found.st_mtime_ns

    def _has_same_content(self, name: str, version: RemoteVersion, found: os.stat_result) -> bool:
        """Compares contents, for an earlier command may have been killed between a transfer and its record."""
        if found.st_size != version.size_bytes:
            return False
        path = self._mirror.base / name
        copy = name_temporary(path)
        try:
            self._store.download(name, copy)
            return filecmp.cmp(path, copy, shallow=False)
        finally:
            copy.unlink(missing_ok=True)

    def _take(self, name: str) -> None:
        with suppress(FileNotFoundError):  # removed since it was listed
            version = self._store.download(name, self._mirror.base / name)
            self._remember(name, version, version.modified_ns)

    def _publish(self, name: str, found: os.stat_result) -> None:
        if name.startswith(GUARDED):
            present, known = self._store.find_version(name), self._index.get(name)
            if present is not None and not (known is not None and known.is_same(present)):
                raise RemoteError(self._describe_conflict(name))
        with suppress(FileNotFoundError):  # removed since it was listed
            version = self._store.upload(self._mirror.base / name, name)
            if version.size_bytes == found.st_size:  # else it has grown meanwhile, and is published once more
                self._remember(name, version, found.st_mtime_ns)

    def _has_gone(self, name: str) -> bool:
        """Whether a file is still missing that was when files were listed, and not set aside or given back since."""
        path = self._mirror.base / name
        return not is_set_aside(path) and not path.exists()

    def _retract(self, name: str) -> None:
        present = self._store.find_version(name)
        if present is not None and self._index[name].is_same(present):
            self._store.remove(name)
        del self._index[name]

    def _describe_conflict(self, name: str) -> str:
        return (
            f"{self._store.describe(name)} was written by another computer since this one began: nothing was replaced. "
            f"Train each fold on one computer; to keep what is published, remove {self._mirror.base / name} here, to "
            f"keep what was trained here, remove the former"
        )


def refresh_mirror(url: str) -> Path:
    """Takes over what has changed in a folder by URL; returns the local folder that stands for it.

    Raises:
        RemoteError: The URL cannot be read.
    """
    mirror = open_mirror(url, is_file=False)
    Synchronizer(mirror).pull()
    return mirror.root


def _transfer(action: Callable[[str], None], names: Iterable[str]) -> None:
    """Transfers files, several at once; the others are finished before an error of one is raised."""
    with ThreadPoolExecutor(TRANSFERS_AT_ONCE) as pool:
        futures = [pool.submit(action, name) for name in names]
    for future in futures:
        future.result()
