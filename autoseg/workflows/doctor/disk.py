"""Checks of the folder of a run and the temporary folder: space, speed, and what their file systems can do."""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from autoseg.document import Part
from autoseg.errors import AutosegError
from autoseg.files.temporary_files import name_temporary
from autoseg.processes.fold_lock import wait_for_lock
from autoseg.run_folder import RunFolder
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.workflows.doctor.finding import Finding, format_size

DATASET_FILE: Final = "dataset.json"
NETWORK_FILE_SYSTEMS: Final = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs"),
    *(
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.ceph",
        "fuse.s3fs",
        "fuse.gcsfuse",
        "fuse.rclone",
        "fuse.beegfs",
        "virtiofs",
    ),
)
BLOCK_BYTES: Final = 2**20
LARGE_FILE_BLOCKS: Final = 32
SMALL_FILES: Final = 20
SMALL_FILE_BYTES: Final = 4096
MOST_SECONDS: Final = 1.5  # for each measurement of speed
SLOW_BYTES_PER_SECOND: Final = 20e6  # guess: a checkpoint of 500 MB then takes 25 s
SLOW_FILE_SECONDS: Final = 0.1  # guess: thousands of cases then take minutes for every step
LEAST_FREE_BYTES: Final = 10**9
LEAST_TEMPORARY_BYTES: Final = 5 * 10**8
LARGEST_CLOCK_DIFFERENCE_SECONDS: Final = 5.0
NAME_WITH_UMLAUT: Final = "Prüfung ä 名.txt"


class DiskFacts(Part):
    """The folder of a run, or the next existing one above it, and the temporary folder.

    Attributes:
        folder: The examined folder.
        file_system: Type of its file system.
        write_problem: Reason why nothing can be written there; empty if something can.
        rename_problem, lock_problem, name_problem: Reasons why files cannot be replaced in one step, be locked, or have
            names with umlauts; empty if they can.
        free_files: Number of files that may still be made; None where the file system sets no limit.
        write_rate, read_rate: Bytes per second of a large file, written down to the disk; None if not measured.
        small_file_seconds: Time to write, flush and rename a small file; None if not measured.
        clock_difference_seconds: Time of a new file by the file system minus time by the clock.
        temporary: The temporary folder.
        cache: The user's folder for measurements of this computer, which need not exist.
    """

    folder: str
    file_system: str
    mount: str
    free_bytes: int
    total_bytes: int
    free_files: int | None
    write_problem: str = ""
    rename_problem: str = ""
    lock_problem: str = ""
    name_problem: str = ""
    write_rate: float | None = None
    read_rate: float | None = None
    small_file_seconds: float | None = None
    clock_difference_seconds: float = 0.0
    temporary: str
    temporary_free_bytes: int
    temporary_problem: str
    cache: str
    is_cache_writable: bool


def measure_disk(folder: Path) -> DiskFacts:
    """Measures the folder with files of its own, which it removes.

    In the place of a dataset it is the working folder, where `autoseg plan` puts a run by default.
    """
    is_dataset = (folder / DATASET_FILE).is_file() and not RunFolder(folder).plan.is_file()
    existing = find_existing(Path.cwd() if is_dataset else folder)
    mount, file_system = find_file_system(existing)
    space = shutil.disk_usage(existing)
    temporary, cache = Path(tempfile.gettempdir()), find_measurement_cache("")
    facts = DiskFacts(
        folder=str(existing),
        file_system=file_system,
        mount=mount,
        free_bytes=space.free,
        total_bytes=space.total,
        free_files=_count_free_files(existing),
        temporary=str(temporary),
        temporary_free_bytes=shutil.disk_usage(temporary).free,
        temporary_problem=_find_problem(lambda: _write_and_remove(temporary)),
        cache=str(cache),
        is_cache_writable=os.access(find_existing(cache), os.W_OK),
    )
    own = name_temporary(existing / "autoseg-doctor")
    problem = _find_problem(own.mkdir)
    if problem:
        return facts.model_copy(update={"write_problem": problem})
    try:
        return facts.model_copy(update=_try_out(own))
    finally:
        shutil.rmtree(own, ignore_errors=True)


def find_existing(folder: Path) -> Path:
    """Finds the folder itself, or the next one above it that exists."""
    absolute = folder.absolute()
    return next((path for path in (absolute, *absolute.parents) if path.is_dir()), Path(absolute.anchor))


def find_file_system(folder: Path) -> tuple[str, str]:
    """Finds where the file system of a folder is mounted, and its type."""
    resolved = folder.resolve()
    mounts = {Path(entry.mountpoint): entry.fstype for entry in psutil.disk_partitions(all=True)}
    inside = [path for path in mounts if resolved.is_relative_to(path)]
    nearest = max(inside, key=lambda path: len(path.parts), default=None)
    return ("", "unknown") if nearest is None else (str(nearest), mounts[nearest])


def check_writing(disk: DiskFacts) -> Iterator[Finding]:
    """Checks that files can be written, replaced in one step, locked, and have names with umlauts."""
    for problem, what, remedy in (
        (disk.write_problem, "nothing can be written", "choose a folder that you may write"),
        (disk.rename_problem, "files cannot be replaced in one step", "put the run on a local disk"),
        (
            disk.lock_problem,
            "files cannot be locked",
            "put the run on a file system that has locks, such as a local disk",
        ),
    ):
        if problem:
            meaning = f"{what}: commands that write there end with an error"
            found = f"{disk.folder} ({disk.file_system}): {problem}"
            yield Finding(state="will fail", subject="run folder", found=found, meaning=meaning, remedy=remedy)
    if disk.name_problem:
        yield Finding(
            state="warning",
            subject="run folder",
            found=f"{disk.folder} ({disk.file_system}): a file named {NAME_WITH_UMLAUT!r}: {disk.name_problem}",
            meaning="cases whose names have letters beyond ASCII cannot be kept there",
            remedy="export LC_ALL=C.UTF-8, mount with UTF-8 names (iocharset=utf8), or use plain names",
        )
    if not (disk.write_problem or disk.rename_problem or disk.lock_problem or disk.name_problem):
        found = f"{disk.folder} ({disk.file_system}): files are written, replaced, locked and named as needed"
        yield Finding(state="ok", subject="run folder", found=found)


def check_speed(disk: DiskFacts) -> Iterator[Finding]:
    """Checks the speed of large and small files, and names network file systems."""
    if disk.write_rate is None or disk.read_rate is None or disk.small_file_seconds is None:
        return
    is_remote = disk.file_system in NETWORK_FILE_SYSTEMS
    found = (
        f"writes {disk.write_rate / 1e6:.0f} MB/s, reads {disk.read_rate / 1e6:.0f} MB/s, a small file takes "
        f"{1000 * disk.small_file_seconds:.1f} ms{f'; network file system {disk.file_system}' if is_remote else ''}"
    )
    is_slow = (
        min(disk.write_rate, disk.read_rate) < SLOW_BYTES_PER_SECOND or disk.small_file_seconds > SLOW_FILE_SECONDS
    )
    if not is_slow:
        yield Finding(state="ok", subject="disk speed", found=found)
        return
    yield Finding(
        state="warning",
        subject="disk speed",
        found=found,
        meaning="preprocessing, checkpoints and patches wait for the disk",
        remedy="put the run on a local disk (SSD) and copy it back afterwards: a run folder can be moved",
    )


def check_file_clock(disk: DiskFacts) -> Iterator[Finding]:
    """Checks that file system and computer agree about the time."""
    if abs(disk.clock_difference_seconds) > LARGEST_CLOCK_DIFFERENCE_SECONDS:
        yield Finding(
            state="warning",
            subject="clock",
            found=f"new files in {disk.folder} are dated {disk.clock_difference_seconds:+.0f} s from the clock",
            meaning="the server of the file system and this machine disagree: times of files mislead programs",
            remedy="have both clocks set by a time server",
        )


def check_temporary_folder(disk: DiskFacts) -> Iterator[Finding]:
    """Checks that the temporary folder can be written and has space."""
    found = f"{disk.temporary}: {format_size(disk.temporary_free_bytes)} free"
    remedy = "free space there, or export TMPDIR=/path/of/a/larger/folder"
    meaning = "worker processes and compilers keep sockets and files there"
    if disk.temporary_problem:
        found = f"{disk.temporary}: {disk.temporary_problem}"
        yield Finding(state="will fail", subject="temporary folder", found=found, meaning=meaning, remedy=remedy)
    elif disk.temporary_free_bytes < LEAST_TEMPORARY_BYTES:
        yield Finding(state="warning", subject="temporary folder", found=found, meaning=meaning, remedy=remedy)
    else:
        yield Finding(state="ok", subject="temporary folder", found=found)


def check_cache(disk: DiskFacts) -> Iterator[Finding]:
    """Checks that measurements of this computer can be kept between commands."""
    if disk.is_cache_writable:
        return
    yield Finding(
        state="warning",
        subject="cache",
        found=f"{disk.cache} cannot be written",
        meaning="every command measures this computer again, and lists its fonts: some seconds to a minute each",
        remedy="export HOME or XDG_CACHE_HOME=/path/of/a/folder that you may write",
    )


def _try_out(own: Path) -> dict[str, object]:
    """Tries the folder `own`, which is removed afterwards."""
    problems = {
        "rename_problem": _find_problem(lambda: _replace(own)),
        "lock_problem": _find_problem(lambda: _lock(own)),
        "name_problem": _find_problem(lambda: _use_umlaut(own)),
    }
    large = own / "large"
    rates: dict[str, object] = {}
    problem = _find_problem(lambda: rates.update(_measure_rates(large), **_measure_small_files(own)))
    return problems | rates | {"write_problem": problem}


def _find_problem(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (OSError, UnicodeError, AutosegError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _replace(own: Path) -> None:
    old, new = own / "old", own / "new"
    old.write_text("old", encoding="utf-8")
    new.write_text("new", encoding="utf-8")
    new.replace(old)
    if old.read_text(encoding="utf-8") != "new" or new.exists():
        msg = "a replaced file keeps its old content"
        raise OSError(msg)


def _lock(own: Path) -> None:
    with wait_for_lock(own / "lock", on_wait=lambda: None, longest_seconds=MOST_SECONDS):
        pass


def _use_umlaut(own: Path) -> None:
    path = own / NAME_WITH_UMLAUT
    path.write_text("", encoding="utf-8")
    if not path.exists():
        msg = "cannot be found again"
        raise OSError(msg)


def _measure_rates(path: Path) -> dict[str, object]:
    block, begin, blocks = secrets.token_bytes(BLOCK_BYTES), time.monotonic(), 0
    with path.open("wb") as file:
        while blocks < LARGE_FILE_BLOCKS and time.monotonic() - begin < MOST_SECONDS:
            file.write(block)
            blocks += 1
        file.flush()
        os.fsync(file.fileno())
        written = time.monotonic()
        if hasattr(os, "posix_fadvise"):  # else the file would be read from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    difference = path.stat().st_mtime - time.time() + time.monotonic() - written
    size, start, seen = blocks * BLOCK_BYTES, time.monotonic(), 0
    with path.open("rb") as file:
        while time.monotonic() - start < MOST_SECONDS and (content := file.read(BLOCK_BYTES)):
            seen += len(content)
    return {
        "write_rate": size / max(written - begin, 1e-9),
        "read_rate": seen / max(time.monotonic() - start, 1e-9),
        "clock_difference_seconds": difference,
    }


def _measure_small_files(own: Path) -> dict[str, object]:
    begin, count = time.monotonic(), 0
    while count < SMALL_FILES and time.monotonic() - begin < MOST_SECONDS:
        path = own / f"small_{count}"
        with path.open("wb") as file:
            file.write(bytes(SMALL_FILE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        path.replace(own / f"renamed_{count}")
        count += 1
    return {"small_file_seconds": (time.monotonic() - begin) / count}


def _write_and_remove(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(SMALL_FILE_BYTES))


def _count_free_files(folder: Path) -> int | None:
    if not hasattr(os, "statvfs"):  # Windows
        return None
    with suppress(OSError):
        entry = os.statvfs(folder)
        return entry.f_favail if entry.f_files else None
    return None
