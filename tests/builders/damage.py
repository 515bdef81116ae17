"""Damage to files, such as disks and transfers do, disks without room, and network drives that show changes late."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def limit_file_size(size_bytes: int) -> Iterator[None]:
    """Lets files grow no further than this, which fails at the same places as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def flip_bit(path: Path, place: float) -> None:
    """Changes one bit of a file.

    Args:
        path: The file.
        place: Part of the file that lies before the bit.
    """
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def show_late(monkeypatch: pytest.MonkeyPatch, states: dict[Path, os.stat_result | None]) -> None:
    """Has files look as before to this process until their folder is opened, as a client of NFS does.

    Args:
        monkeypatch: Ends it.
        states: What is known of each file; None: that there is none.
    """
    known = {str(path): state for path, state in states.items()}
    find, list_folder = os.stat, os.scandir

    def find_late(path: object, **options: object) -> os.stat_result:
        name = os.fspath(path) if isinstance(path, str | os.PathLike) else path
        if name not in known:
            return find(path, **options)  # type: ignore[arg-type]
        state = known[name]
        if state is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return state

    def list_anew(folder: str | Path = ".") -> object:
        for name in [name for name in known if os.path.dirname(name) == os.fspath(folder)]:  # noqa: PTH120 (no stat)
            del known[name]
        return list_folder(folder)

    monkeypatch.setattr(os, "stat", find_late)
    monkeypatch.setattr(os, "scandir", list_anew)
