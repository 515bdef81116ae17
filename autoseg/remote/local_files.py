"""Fetches files of a mirror when they are read; does nothing for other files."""

import bisect
import os
import re
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from autoseg.errors import RemoteError
from autoseg.file_endings import DICOM_ENDINGS, HEADER_OF_VOXELS, find_ending, strip_ending
from autoseg.remote.cache_folder import is_in_cache

if TYPE_CHECKING:
    from autoseg.remote.mirror import UrlMirror
    from autoseg.remote.store import Store

Item = TypeVar("Item")

TRANSFERS_AT_ONCE: Final = 8
LOCKS: Final = 256  # of a mirror: a fixed number, whatever the number of images
TWO_FILES: Final = (*HEADER_OF_VOXELS, *HEADER_OF_VOXELS.values(), ".mhd", ".nhdr")
"""Endings of formats that keep header and voxels apart."""
NAMING_HEADERS: Final = (".mhd", ".nhdr")
"""Endings of headers that name the files of their voxels, whatever these are called."""
HEADER_BYTES: Final = 2**16


class FolderNames:
    """The names of the files of folders; each folder is listed once, and again for a file that is not among them."""

    def __init__(self) -> None:
        self._listed: dict[Path, list[str]] = {}

    def find(self, path: Path, starts: Iterable[str], whole: Iterable[str] = ()) -> list[str]:
        """Finds the names in the folder of a file that begin with one of some texts, or are one of others; sorted."""
        names = self._listed.get(path.parent, [])
        if not _holds(names, path.name):
            names = self._listed[path.parent] = sorted(other.name for other in path.parent.iterdir())
        found = {name for start in starts for name in _find_starting(names, start)}
        return sorted(found | {name for name in whole if _holds(names, name)})

    def forget(self) -> None:
        """Forgets what was listed, as files of the folders may have come or gone."""
        self._listed.clear()


def _holds(names: Sequence[str], name: str) -> bool:
    """Whether a name is among sorted ones."""
    index = bisect.bisect_left(names, name)
    return index < len(names) and names[index] == name


def _find_starting(names: Sequence[str], start: str) -> Sequence[str]:
    """Finds the names that begin with a text among sorted ones."""
    first = bisect.bisect_left(names, start)
    last = bisect.bisect_left(names, 1, lo=first, key=lambda name: 0 if name.startswith(start) else 1)
    return names[first:last]


MIRROR_NAMES: Final = FolderNames()
"""Names of the files of mirrors, until one is brought up to date: each read of an image looks for its files."""


@contextmanager
def use_local(*paths: Path | None) -> Iterator[None]:
    """Context manager that fetches files, or folders of DICOM slices, and keeps them from being removed meanwhile.

    All of them belong to one dataset or run.

    Raises:
        RemoteError: They cannot be fetched.
    """
    inside = [path for path in paths if path is not None and is_in_cache(path)]
    with ExitStack() as stack:
        if inside:
            _hold(inside, stack)
        yield


def fetch_ahead(items: Sequence[Item], find_files: Callable[[Item], Iterable[Path]]) -> Iterator[Item]:
    """Yields items while threads fetch the files of the next ones; without delay where no file must be fetched.

    Raises:
        RemoteError: They cannot be fetched.
    """
    if not any(is_in_cache(path) for item in items[:1] for path in find_files(item)):
        yield from items
        return

    def fetch_files(item: Item) -> None:
        with use_local(*find_files(item)):
            pass

    pool = ThreadPoolExecutor(TRANSFERS_AT_ONCE)
    try:
        waiting = deque[Future[None]]()
        for index, item in enumerate(items):
            ahead = items[index + len(waiting) : index + 2 * TRANSFERS_AT_ONCE]
            waiting += (pool.submit(fetch_files, other) for other in ahead)
            waiting.popleft().result()
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def find_use_lock(mirror_folder: Path, path: Path) -> Path:
    """Returns the lock that readers of a file of a mirror share; files of one image have the same."""
    is_slice = find_ending(path.parent.name) in DICOM_ENDINGS
    image = path.parent if is_slice else path.with_name(path.name.partition(".")[0])
    return mirror_folder / "locks" / f"{zlib.crc32(str(image).encode()) % LOCKS:02x}.lock"


def _hold(paths: Sequence[Path], stack: ExitStack) -> None:
    from autoseg.processes.fold_lock import share_lock
    from autoseg.remote.mirror import find_mirror

    mirror = find_mirror(paths[0])
    if mirror is None:
        return
    parts = [part for path in paths for part in list_image_files(path, names=MIRROR_NAMES)]
    for lock in sorted({find_use_lock(mirror.folder, part) for part in parts}):
        stack.enter_context(share_lock(lock))
    for part in parts:
        _fetch(part)


def list_image_files(path: Path, *, names: FolderNames | None = None) -> list[Path]:
    """Lists the files of an image, also of one that is a folder of slices, or that keeps header and voxels apart.

    Args:
        path: The image.
        names: Names of the files of its folder, where the files of many images are listed; None lists the folder.
    """
    if path.is_dir():
        return sorted(part for part in path.rglob("*") if part.is_file())
    if not path.is_file():
        return []
    ending = path.name.lower()[len(strip_ending(path.name)) :]
    if ending not in TWO_FILES:
        return [path]
    names = FolderNames() if names is None else names
    starts, text = [f"{strip_ending(path.name)}."], ""
    if ending in NAMING_HEADERS:
        if is_in_cache(path):
            _fetch(path)
        text = _read_header(path)
        starts += re.findall(r"([^\s%=:]+)%\d*d", text)  # such as slice%03d.raw
    listed = [path.parent / name for name in names.find(path, starts, _list_values(text))]
    return [path, *(other for other in listed if other != path and other.is_file())]


def _read_header(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES).decode("latin-1")


def _list_values(text: str) -> list[str]:
    """Lists the values of a header, and its lines, as there may be a list of files."""
    lines = text.splitlines()
    return [value.strip() for line in lines for value in (line, re.split("[=:]", line, maxsplit=1)[-1])]


def _fetch(path: Path) -> None:
    from autoseg.remote.mirror import find_mirror, is_placeholder
    from autoseg.remote.store import RemoteVersion
    from autoseg.remote.trimming import note_fetched

    found = path.stat()
    if not is_placeholder(found):
        os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))  # what was used last is removed last
        return
    mirror = find_mirror(path)
    assert mirror is not None, "only mirrors hold placeholders"
    name = mirror.find_name(path)
    store = _open_store(mirror, os.getpid())
    expected = RemoteVersion(size_bytes=found.st_size, modified_ns=found.st_mtime_ns)
    try:
        store.download(name, path, expected=expected)
    except FileNotFoundError as error:
        msg = f"{store.describe(name)} has gone since it was listed; put it back, or repeat the command"
        raise RemoteError(msg) from error
    os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
    note_fetched(found.st_size)


@cache
def _open_store(mirror: "UrlMirror", pid: int) -> "Store":
    """Opens the place of a mirror's files once in a process; connections of a parent process cannot be used."""
    del pid
    return mirror.open_store()
