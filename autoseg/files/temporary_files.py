"""Temporary files: their names, and the removal of those whose process was killed.

The name of a temporary file or folder holds a token that identifies the process that writes it: the host (with its
present boot and PID namespace), the PID and the start time of the process. So a later process on the same host can tell
whether the writer still runs. What another host wrote, perhaps on a shared file system, is left alone until nothing in
it has changed for a day. Names of earlier versions identify neither autoseg nor a process: files of such names are
removed only where no other program writes.
"""

import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import util as multiprocessing_util
from pathlib import Path
from typing import Final

TOKEN: Final = r"(?P<host>[0-9a-f]{8})(?P<pid>[0-9a-f]{8})(?P<start>[0-9a-f]{8})[0-9a-f]{8}"
MARKER: Final = "-autoseg-"
TEMPORARY_NAME: Final = re.compile(rf"\.(?P<name>.+){MARKER}{TOKEN}(?P<ending>\..*)?")
"""Name of a file or folder that is written beside its target, before it is renamed."""
EARLIER_NAME: Final = re.compile(r"\..+-[0-9a-f]{16}(\..*)?")
"""The same of earlier versions, which other programs may use as well."""
TEMPORARY_FOLDER: Final = re.compile(rf"autoseg-{TOKEN}")
"""Name of a folder in the system's folder of temporary files, or of a mark in a folder of multiprocessing."""
MULTIPROCESSING_PREFIX: Final = "pymp-"
REPLACED_ENDING: Final = ".replaced"
"""Ending of the temporary name of a folder that is being replaced, on file systems that cannot exchange two names."""
ABANDONED_SECONDS: Final = 24 * 3600.0
START_VALUES: Final = 2**32


def name_temporary(path: Path, ending: str | None = None) -> Path:
    """Returns a new temporary path beside `path`, with its ending, or with the whole name and another ending."""
    name, dot, own_ending = path.name.partition(".") if ending is None else (path.name, "", ending)
    return path.with_name(f".{name}{MARKER}{_build_token()}{dot}{own_ending}")


@contextmanager
def make_temporary_folder() -> Iterator[Path]:
    """Yields a folder in the system's folder of temporary files and removes it afterwards."""
    remove_abandoned_folders()
    path = Path(tempfile.gettempdir()) / f"autoseg-{_build_token()}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def mark_multiprocessing_folder() -> None:
    """Marks the folder in which multiprocessing keeps its sockets as one of this process.

    Must be called before the first worker is started; workers use the same folder.
    """
    remove_abandoned_folders()
    folder = Path(multiprocessing_util.get_temp_dir())
    if not any(TEMPORARY_FOLDER.fullmatch(path.name) for path in folder.iterdir()):
        (folder / f"autoseg-{_build_token()}").touch()


def remove_leftovers(folder: Path, *, is_exclusive: bool = False) -> None:
    """Removes what killed processes left in a folder and below it, and in the system's folder of temporary files.

    A folder that was being replaced gets its name back. What cannot be removed is left: it does no harm, and writing
    reports any problem of the folder.

    Args:
        folder: The folder; it need not exist.
        is_exclusive: Whether only the calling process writes there, so that all temporary files are leftovers, also
            those of earlier versions.
    """
    remove_abandoned_folders()
    for place, folders, files in os.walk(folder):
        for name in [name for name in (*folders, *files) if name.startswith(".")]:
            if _remove_if_abandoned(Path(place, name), is_exclusive=is_exclusive) and name in folders:
                folders.remove(name)


@functools.lru_cache(maxsize=128)  # bounded, as temporary folders are among the folders
def remove_leftovers_once(folder: Path) -> None:
    """Removes what killed processes left in a folder, not below it, when this process first writes there."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if entry.name.startswith(".")]:
            _remove_if_abandoned(Path(entry.path))


@functools.cache
def remove_abandoned_folders() -> None:
    """Removes folders of killed processes from the system's folder of temporary files, once per process."""
    for folder in _list_temporary_folders(Path(tempfile.gettempdir())):
        shutil.rmtree(folder, ignore_errors=True)


def _list_temporary_folders(place: Path) -> Iterator[Path]:
    for name in _list_names(place):
        marks = _list_names(place / name) if name.startswith(MULTIPROCESSING_PREFIX) else [name]
        if any(map(_is_left_on_this_host, marks)):
            yield place / name


def _list_names(folder: Path) -> list[str]:
    """Lists what a folder holds; nothing where another process has removed it meanwhile."""
    with suppress(OSError), os.scandir(folder) as entries:
        return [entry.name for entry in entries]
    return []


def _is_left_on_this_host(name: str) -> bool:
    match = TEMPORARY_FOLDER.fullmatch(name)
    return match is not None and match["host"] == _identify_host() and not _is_alive(match)


def _remove_if_abandoned(path: Path, *, is_exclusive: bool = False) -> bool:
    if is_exclusive and EARLIER_NAME.fullmatch(path.name):
        return _remove_earlier_file(path)
    match = TEMPORARY_NAME.fullmatch(path.name)
    if match is None or path.is_symlink() or not (is_exclusive or _is_abandoned(path, match)):
        return False
    target = path.with_name(match["name"])
    with suppress(OSError):
        if match["ending"] == REPLACED_ENDING and not target.exists():
            path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
        return True
    return False


def _remove_earlier_file(path: Path) -> bool:
    with suppress(OSError):
        if path.is_file() and not path.is_symlink():
            path.unlink()
            return True
    return False


def _is_abandoned(path: Path, match: re.Match[str]) -> bool:
    if match["host"] == _identify_host():
        return not _is_alive(match)
    return time.time() - max(_list_change_times(path), default=time.time()) > ABANDONED_SECONDS


def _list_change_times(path: Path) -> Iterator[float]:
    """Lists when a file, or a folder and what is in it, changed; without what another process removes meanwhile."""
    inside = (Path(place, name) for place, folders, files in os.walk(path) for name in (*folders, *files))
    for entry in (path, *inside):
        with suppress(OSError):
            yield entry.lstat().st_mtime


def _is_alive(match: re.Match[str]) -> bool:
    pid = int(match["pid"], 16)
    if pid == os.getpid():
        return int(match["start"], 16) == _read_start(pid)
    import psutil  # imported here because it is only needed after a process was killed

    return psutil.pid_exists(pid) and _read_start(pid) in (int(match["start"], 16), None)


def _build_token() -> str:
    pid = os.getpid()
    return f"{_identify_host()}{pid:08x}{_read_start(pid) or 0:08x}{secrets.token_hex(4)}"


@functools.cache
def _identify_host() -> str:
    """Identifies the processes among which a PID is unique: those of a host, a boot and a PID namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _read_start(pid: int) -> int | None:
    """Reads when a process was started; -1 if it has ended, None if that cannot be known.

    Linux counts from the boot, so that a change of the clock makes no difference.
    """
    if sys.platform != "linux":
        import psutil

        try:
            process = psutil.Process(pid)
            return -1 if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time()) % START_VALUES
        except psutil.NoSuchProcess:
            return -1
        except psutil.AccessDenied:
            return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # also if processes of other users are hidden
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return -1 if state in "ZX" else int(fields[18]) % START_VALUES
