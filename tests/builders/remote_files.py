"""A place by URL whose transfers fail when a test wants it: `faulty://`, in memory."""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from autoseg.remote import retrying
from autoseg.remote.cache_folder import FOLDER_VARIABLE
from autoseg.remote.mirror import UrlMirror, open_mirror
from autoseg.remote.syncing import Synchronizer

Fault = Literal["cut", "short", "unavailable", "forbidden"]


class FaultyFileSystem(MemoryFileSystem):
    """Files in memory. A transfer takes the next fault, if there is one, and counts."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[deque[Fault | None]] = deque()
    calls: ClassVar[Counter[str]] = Counter()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._count("open")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("faulty://", "memory://"))

    def get_file(self, rpath: str, lpath: str, *args: Any, **kwargs: Any) -> None:
        self._count("get")
        fault = self._find_fault()
        content = self.cat_file(rpath)
        Path(lpath).write_bytes(content if fault is None else content[: len(content) // 2])
        if fault == "cut":
            msg = "Connection reset by peer"
            raise ConnectionResetError(msg)

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        self._count("put")
        fault = self._find_fault()
        content = Path(lpath).read_bytes()
        self.pipe_file(rpath, content if fault is None else content[: len(content) // 2])
        if fault == "cut":
            msg = "Connection reset by peer"
            raise ConnectionResetError(msg)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._find_fault()
        return super().ls(path, detail=detail, **kwargs)

    def _count(self, call: str) -> None:
        self.calls[call] += 1

    def _find_fault(self) -> Fault | None:
        fault = self.faults.popleft() if self.faults else None
        if fault == "unavailable":
            msg = "503 Slow Down, asked of https://host/bucket?X-Amz-Signature=very-secret"
            raise OSError(msg)
        if fault == "forbidden":
            msg = "403 Forbidden"
            raise PermissionError(msg)
        return fault


@contextmanager
def open_faulty_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FaultyFileSystem]]:
    """An empty place; another try follows at once."""
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
    monkeypatch.setattr(retrying, "PAUSES_SECONDS", (0.0, 0.0))
    FaultyFileSystem.clear_instance_cache()
    for state in (FaultyFileSystem.store, FaultyFileSystem.faults, FaultyFileSystem.calls):
        state.clear()
    yield FaultyFileSystem
    FaultyFileSystem.store.clear()


class Node:
    """A computer with a cache of its own, at a place by URL."""

    def __init__(self, cache: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cache, self._url, self._monkeypatch = cache, url, monkeypatch

    @property
    def mirror(self) -> UrlMirror:
        self._monkeypatch.setenv(FOLDER_VARIABLE, str(self._cache))
        return open_mirror(self._url, is_file=False)

    @property
    def root(self) -> Path:
        return self.mirror.root

    def begin(self) -> Synchronizer:
        """What a command does first."""
        synchronizer = Synchronizer(self.mirror)
        synchronizer.pull()
        return synchronizer

    def write(self, name: str, content: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        return path
