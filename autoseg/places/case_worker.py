"""The part of the work on a case that a process on another computer does: a worker of Dask or a job of Slurm.

It refuses cases where it does not see the caller's files, or has other versions of the libraries that results depend
on: it would fail, or write other arrays than the rest.
"""

import contextlib
import functools
import os
import platform
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from threadpoolctl import threadpool_limits

from autoseg.errors import RunError
from autoseg.files.checksums import compute_sha256
from autoseg.files.temporary_files import TEMPORARY_NAME, name_temporary
from autoseg.processes.case_pool import build_failure
from autoseg.remote.cache_folder import find_cache, use_cache
from autoseg.run_folder import RunFolder

LIBRARIES: Final = ("autoseg", "numpy", "scipy", "SimpleITK", "nibabel", "blosc2", "torch")
"""Libraries that results depend on."""
ONE_CASE_AT_A_TIME: Final = threading.Lock()
"""A worker has as many threads as its user gave it, and the work on a case changes settings of the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What the workers must have in common with the process that gives them cases.

    Attributes:
        folder: Working folder, in which relative paths begin.
        mark: A file of the run.
        mark_sha256: Its digest.
        versions: Versions of Python and the libraries.
        cache: Its cache of files by URL, in which the paths of such files begin.
    """

    folder: Path
    mark: Path
    mark_sha256: str
    versions: tuple[tuple[str, str], ...]
    cache: Path

    def list_differences(self) -> list[str]:
        """Lists the versions of this process that are others than the caller's."""
        return [
            f"{name} {found} instead of {expected}"
            for (name, expected), (_, found) in zip(self.versions, read_library_versions(), strict=True)
            if found != expected
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A worker that cannot work for the caller, with the reason."""

    worker: str
    reason: str

    def describe(self) -> str:
        """Describes it for the user."""
        return f"the worker on {self.worker} cannot work on this run: {self.reason}"


def read_library_versions() -> tuple[tuple[str, str], ...]:
    """Reads the versions that results depend on; builds of one version for other devices count as the same."""
    python = ".".join(platform.python_version_tuple()[:2])
    return ("Python", python), *((name, _read_version(name)) for name in LIBRARIES)


def run_case(work: Callable[[Any], object], name: str, job: Any, caller: Caller, *, runs_networks: bool) -> object:
    """Does the work on a case in a worker; returns its result, failure or refusal.

    Args:
        work: Function of the job.
        name: Name of the case.
        job: Argument of `work`.
        caller: Description of the process that gives the case.
        runs_networks: Whether the work uses the threads of the process, rather than one.
    """
    with ONE_CASE_AT_A_TIME:
        reason = find_refusal(caller)
        if reason is not None:
            return Refusal(worker=socket.gethostname(), reason=reason)
        threads = None if runs_networks else 1
        with _enter_folder(caller.folder), use_cache(caller.cache), threadpool_limits(threads):
            try:
                return work(job)
            except Exception as error:
                return build_failure(name, error)


@contextlib.contextmanager
def describe_caller(run_root: Path) -> Iterator[Caller]:
    """Describes this process for workers; leaves a mark in the run within the block, where it can be written.

    Raises:
        RunError: There is neither a place for a mark nor a run.
    """
    folder = find_present_folder(run_root)
    mark, plan = name_temporary(folder / "cases"), RunFolder(folder).plan
    try:
        mark.write_text(mark.name, encoding="utf-8")
    except OSError as error:
        if not plan.is_file():
            msg = f"{folder} cannot be written ({error.strerror}); choose another folder"
            raise RunError(msg) from error
        mark = plan
    try:
        yield Caller(
            folder=Path.cwd(),
            mark=mark,
            mark_sha256=compute_sha256(mark),
            versions=read_library_versions(),
            cache=find_cache(),
        )
    finally:
        if mark != plan:
            mark.unlink(missing_ok=True)


def keep_mark(caller: Caller) -> None:
    """Keeps other computers from taking the mark of a caller for a leftover, after a day in the queue.

    To be called now and then in the process of the caller.
    """
    if TEMPORARY_NAME.fullmatch(caller.mark.name):
        with contextlib.suppress(OSError):  # that it is gone, the workers report
            os.utime(caller.mark)


def find_present_folder(path: Path) -> Path:
    """Returns the folder, or the nearest one above it that exists, as an absolute path."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


@functools.lru_cache(maxsize=16)
def find_refusal(caller: Caller) -> str | None:
    """Finds the reason why this process cannot work for a caller; None if it can."""
    different = caller.list_differences()
    if different:
        return f"it has {', '.join(different)}; install the same versions as on the computer of the command"
    try:
        is_same = compute_sha256(caller.mark) == caller.mark_sha256
    except OSError as error:
        return (
            f"it cannot read {caller.mark} ({error.strerror}); run, dataset and images must lie on a file system "
            f"that all workers share, under the same path; a model file or a model of nnU-Net must be imported there "
            f"first (autoseg import)"
        )
    return None if is_same else f"it has another file at {caller.mark}; the run must lie on a shared file system"


@contextlib.contextmanager
def _enter_folder(folder: Path) -> Iterator[None]:
    """Lets relative paths begin where the caller's do, if the folder is there."""
    with contextlib.chdir(folder) if folder.is_dir() else contextlib.nullcontext():
        yield


def _read_version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "(not installed)"
