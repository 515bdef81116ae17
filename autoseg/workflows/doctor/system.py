"""Checks of limits for files and processes, of the character encoding and the clock."""

import locale
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil

from autoseg.document import Part
from autoseg.runtime.cpu_time import CGROUPS, list_control_groups
from autoseg.workflows.doctor.finding import Finding

USUAL_OPEN_FILES: Final = 1024  # the usual limit of Linux; macOS grants 256
FEWEST_OPEN_FILES: Final = 64
THREADS_PER_CORE: Final = 8  # guess: of the libraries and worker processes of a training
FEWEST_FURTHER_PROCESSES: Final = 64
PLAUSIBLE_YEARS: Final = (2025, 2100)
CLOCK_SECONDS: Final = 0.3
LARGEST_JUMP_SECONDS: Final = 0.2


class SystemFacts(Part):
    """Limits and settings of the operating system.

    Attributes:
        open_files: Most files that a process may open; None without a limit.
        further_processes: Threads and processes that this user or container may still start; None without a limit.
        cores: Number of cores.
        encoding: Encoding of file names.
        text_encoding: Encoding of text.
        locale_problem: Message of the C library about the locale's name; empty if it is known.
        year: Year by the clock.
        clock_seconds: Time by the clock while `monotonic_seconds` passed by the clock that is never set.
    """

    open_files: int | None
    further_processes: int | None
    cores: int
    encoding: str
    text_encoding: str
    locale_names: str
    locale_problem: str
    year: int
    clock_seconds: float
    monotonic_seconds: float


def measure_system(folder: Path) -> SystemFacts:
    """Measures limits, encoding and clock."""
    del folder
    clock, monotonic = time.time(), time.monotonic()
    time.sleep(CLOCK_SECONDS)
    return SystemFacts(
        open_files=_read_limit("RLIMIT_NOFILE"),
        further_processes=_count_further_processes(),
        cores=os.cpu_count() or 1,
        encoding=sys.getfilesystemencoding(),
        text_encoding=locale.getencoding(),
        locale_names=", ".join(
            f"{name}={os.environ[name]}" for name in ("LC_ALL", "LC_CTYPE", "LANG") if name in os.environ
        ),
        locale_problem=_find_locale_problem(),
        year=datetime.now(tz=UTC).year,
        clock_seconds=time.time() - clock,
        monotonic_seconds=time.monotonic() - monotonic,
    )


def check_open_files(system: SystemFacts) -> Iterator[Finding]:
    """Checks how many files a process may open."""
    if system.open_files is None or system.open_files >= USUAL_OPEN_FILES:
        yield Finding(state="ok", subject="open files", found=f"limit {system.open_files or 'none'}")
        return
    yield Finding(
        state="warning" if system.open_files >= FEWEST_OPEN_FILES else "will fail",
        subject="open files",
        found=f"a process may open {system.open_files} files",
        meaning='worker processes hand over open files: "Too many open files" or "received 0 items of ancdata"',
        remedy="ulimit -n 4096 (for good: /etc/security/limits.conf); docker run --ulimit nofile=4096",
        source="https://github.com/pytorch/pytorch/issues/973",
    )


def check_processes(system: SystemFacts) -> Iterator[Finding]:
    """Checks how many threads and processes may still be started."""
    if system.further_processes is None:
        yield Finding(state="ok", subject="processes", found="no limit")
        return
    found = f"{system.further_processes} further threads and processes may be started"
    needed = FEWEST_FURTHER_PROCESSES + THREADS_PER_CORE * system.cores
    if system.further_processes >= needed:
        yield Finding(state="ok", subject="processes", found=found)
        return
    yield Finding(
        state="warning" if system.further_processes >= FEWEST_FURTHER_PROCESSES else "will fail",
        subject="processes",
        found=found,
        meaning=f"a training starts up to about {needed} threads: libraries end with pthread_create failed or Resource "
        f"temporarily unavailable",
        remedy="ulimit -u 4096, docker run --pids-limit=4096, or train with fewer --workers",
    )


def check_encoding(system: SystemFacts) -> Iterator[Finding]:
    """Checks whether file names may hold any character."""
    found = f"{system.encoding} for names, {system.text_encoding} for text ({system.locale_names or 'no locale set'})"
    is_utf8 = {system.encoding.lower(), system.text_encoding.lower()} <= {"utf-8", "utf8"}
    if is_utf8 and not system.locale_problem:
        yield Finding(state="ok", subject="locale", found=found)
        return
    yield Finding(
        state="warning",
        subject="locale",
        found=f"{found}{'; ' if system.locale_problem else ''}{system.locale_problem}",
        meaning="file and case names with umlauts or other letters beyond ASCII may be misread or refused",
        remedy="export LC_ALL=C.UTF-8, or PYTHONUTF8=1",
    )


def check_clock(system: SystemFacts) -> Iterator[Finding]:
    """Checks that the clock shows a plausible year and runs steadily."""
    jump = system.clock_seconds - system.monotonic_seconds
    if not PLAUSIBLE_YEARS[0] <= system.year <= PLAUSIBLE_YEARS[1]:
        found = f"the clock shows the year {system.year}"
        meaning = "times of files are wrong: `make`, trackers and downloads over https fail"
    elif abs(jump) > LARGEST_JUMP_SECONDS:
        found = f"the clock was set by {jump:+.1f} s while it was watched for {system.monotonic_seconds:.1f} s"
        meaning = "times in logs are wrong; autoseg measures durations by another clock"
    else:
        yield Finding(state="ok", subject="clock", found=f"year {system.year}, running steadily")
        return
    remedy = "set the clock, or have it set by a time server (timedatectl set-ntp true)"
    yield Finding(state="warning", subject="clock", found=found, meaning=meaning, remedy=remedy)


def _read_limit(name: str) -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(getattr(resource, name))
    return None if soft == resource.RLIM_INFINITY or soft < 0 else soft


def _count_further_processes() -> int | None:
    """Counts what the user's limit, which root does not have, and the limits of control groups leave."""
    left = list(_list_group_limits())
    limit = _read_limit("RLIMIT_NPROC") if hasattr(os, "getuid") and os.getuid() != 0 else None
    if limit is not None:
        own = [process.info for process in psutil.process_iter(["uids", "num_threads"])]
        left.append(
            limit - sum(info["num_threads"] or 1 for info in own if info["uids"] and info["uids"][0] == os.getuid())
        )
    return max(0, min(left)) if left else None


def _list_group_limits() -> Iterator[int]:
    for group in list_control_groups("pids", cgroups=CGROUPS):
        try:
            yield int((group / "pids.max").read_text()) - int((group / "pids.current").read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue


def _find_locale_problem() -> str:
    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error as error:
        return str(error)
    return ""
