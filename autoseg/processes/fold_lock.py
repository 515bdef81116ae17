"""Locks a fold while a process trains it, and files that several processes write one after the other.

The operating system releases a lock when its process ends. On NFS, too, locks keep processes of several computers apart
(since Linux 2.6.12), unless it is mounted with `nolock` or `local_lock`.
"""

import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TextIO

from autoseg.document import Document, read_document
from autoseg.errors import DocumentError, LockError, RunError, TrainingError
from autoseg.files.network_drives import refresh_folder
from autoseg.run_folder import FoldFolder, make_folder

ATTEMPTS: Final = 10  # `find_holder` briefly holds the lock, too
SECONDS_BETWEEN_ATTEMPTS: Final = 0.1
LONGEST_SHARED_WAIT_SECONDS: Final = 60.0

if sys.platform == "win32":
    import msvcrt

    LOCKED_BYTE: Final = 1 << 30  # far beyond the content, which must stay readable

    def _lock(file: TextIO, *, is_shared: bool) -> None:
        del is_shared
        os.lseek(file.fileno(), LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error

    def _unlock(file: TextIO) -> None:
        os.lseek(file.fileno(), LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(file: TextIO, *, is_shared: bool) -> None:
        """Raises BlockingIOError if another process holds it."""
        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def _unlock(file: TextIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


class LockHolder(Document):
    """The process that trains a fold."""

    schema_version: Literal[1] = 1
    pid: int
    host: str
    device: str


@contextmanager
def lock_fold(folder: FoldFolder, *, device: str) -> Iterator[None]:
    """Context manager that keeps other processes from training this fold, and shows what they have left of it.

    Raises:
        TrainingError: Another process trains it.
        RunError: The folder cannot be written, or its file system has no locks.
    """
    with _open_lock(folder.lock) as file:
        if not _acquire(file):
            raise TrainingError(_describe_conflict(folder))
        for changed in (folder.root.parent, folder.root):
            refresh_folder(changed)
        _write_holder(file, LockHolder(pid=os.getpid(), host=socket.gethostname(), device=device))
        try:
            yield
        finally:
            _unlock(file)


@contextmanager
def wait_for_lock(
    path: Path, *, on_wait: Callable[[], None], longest_seconds: float = math.inf, is_kept: bool = True
) -> Iterator[None]:
    """Context manager that waits until no other process holds the lock of the same file, and shows what it has written.

    Args:
        path: Lock file.
        on_wait: Called once if another process holds the lock.
        longest_seconds: Time to wait; a process that is stopped or hangs keeps its lock.
        is_kept: Whether the lock file is kept, or removed at the end.

    Raises:
        LockError: The file system has no locks.
        RunError: The folder cannot be written, or another process keeps the lock.
    """
    begin, is_told = time.monotonic(), False
    while (file := _open_locked(path)) is None:
        if not is_told:
            on_wait()
            is_told = True
        if time.monotonic() - begin > longest_seconds:
            msg = (
                f"another process holds the lock {path} for more than {longest_seconds:.0f} s; "
                f"end it (a process that is stopped or hangs keeps its locks), then repeat the command"
            )
            raise RunError(msg)
    with file:
        refresh_folder(path.parent)
        try:
            yield
        finally:
            if not is_kept:
                with suppress(OSError):  # Windows removes no open file
                    path.unlink()
            _unlock(file)


@contextmanager
def share_lock(path: Path) -> Iterator[None]:
    """Context manager that keeps others from holding the lock of a file alone, and waits for one that does.

    Raises:
        LockError: The file system has no locks.
        RunError: The folder cannot be written, or another process keeps the lock.
    """
    begin = time.monotonic()
    with _open_lock(path) as file:
        while not _acquire(file, is_shared=True):
            if time.monotonic() - begin > LONGEST_SHARED_WAIT_SECONDS:
                msg = f"another process holds the lock {path} for more than {LONGEST_SHARED_WAIT_SECONDS:.0f} s; end it"
                raise RunError(msg)
        try:
            yield
        finally:
            _unlock(file)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Context manager that yields whether it holds the lock of a file alone; it does not wait for others.

    Raises:
        LockError: The file system has no locks.
        RunError: The folder cannot be written.
    """
    with _open_lock(path) as file:
        is_held = _acquire(file, attempts=1)
        try:
            yield is_held
        finally:
            if is_held:
                _unlock(file)


def find_holder(folder: FoldFolder) -> LockHolder | None:
    """Finds the process that trains a fold now; None if there is none."""
    try:
        with folder.lock.open("r", encoding="utf-8") as file:
            _lock(file, is_shared=True)
            _unlock(file)
    except BlockingIOError:
        return _read_holder(folder)
    except OSError:  # no lock file, or a file system without locks
        return None
    return None


def find_trainings(configuration_models: Path) -> dict[Path, LockHolder]:
    """Finds the processes that train folds of a configuration now, by the folders of the folds."""
    locks = sorted(configuration_models.glob(".fold_*.lock"))
    folders = [FoldFolder(lock.with_name(lock.name.removeprefix(".").removesuffix(".lock"))) for lock in locks]
    return {folder.root: holder for folder in folders if (holder := find_holder(folder)) is not None}


def _open_locked(path: Path) -> TextIO | None:
    """Opens and locks a file; None if another process holds the lock, or has just removed the file."""
    file = _open_lock(path)
    try:
        if _acquire(file) and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
    except FileNotFoundError:
        pass  # removed meanwhile
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _open_lock(path: Path) -> TextIO:
    make_folder(path.parent)
    try:
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(_describe_write_error(path, error)) from error


def _write_holder(file: TextIO, holder: LockHolder) -> None:
    """Writes without a buffer, which would be written once more when the file is closed."""
    try:
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), holder.model_dump_json().encode())
    except OSError as error:
        raise RunError(_describe_write_error(Path(file.name), error)) from error


def _describe_write_error(path: Path, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror or error}; free space or choose another place"


def _acquire(file: TextIO, *, is_shared: bool = False, attempts: int = ATTEMPTS) -> bool:
    for attempt in range(attempts):
        try:
            _lock(file, is_shared=is_shared)
        except BlockingIOError:
            if attempt < attempts - 1:
                time.sleep(SECONDS_BETWEEN_ATTEMPTS)
        except OSError as error:
            msg = f"cannot lock {file.name}: {error.strerror or error}; put the run on a file system that has locks"
            raise LockError(msg) from error
        else:
            return True
    return False


def _read_holder(folder: FoldFolder) -> LockHolder:
    try:
        return read_document(folder.lock, LockHolder)
    except DocumentError:  # the other process has the lock and has not written its name yet
        return LockHolder(pid=0, host="", device="")


def _describe_conflict(folder: FoldFolder) -> str:
    holder = _read_holder(folder)
    return (
        f"{folder.root} is being trained already, by process {holder.pid} on {holder.host} ({holder.device}); "
        f"watch it with `autoseg status`, or stop it before you train this fold here"
    )
