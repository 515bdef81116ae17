"""Writes to the terminal: progress bars on a terminal, plain lines elsewhere."""

import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from autoseg.cli.urls import name_urls
from autoseg.processes.progress import Total, format_duration, read_total
from autoseg.processes.signals import StopRequest

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.table import Table

Item = TypeVar("Item")
PLAIN_LINE_SECONDS = 10.0
PLAIN_WIDTH = 160  # tables in a log file need not fit a screen
ERRORS_OF_A_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNLIMITED_WIDTH = 100_000  # for whole sentences in a table: nothing is wrapped in a file or pipe


class Console:
    """Writes to standard output; implements `autoseg.processes.progress.Progress`."""

    def __init__(self, rich_console: "RichConsole") -> None:
        self._rich = rich_console
        self._bars: RichProgress | None = None
        self._part: TaskID | None = None
        self._last_line_seconds = 0.0
        self._is_loss_told = False

    @property
    def is_terminal(self) -> bool:
        """Whether standard output is a terminal."""
        return self._rich.is_terminal

    @property
    def rich(self) -> "RichConsole":
        """Console of rich, for live displays."""
        return self._rich

    def note(self, text: str) -> None:
        """Shows a line of text; that a file for which there is no room receives it ends no work."""
        text = name_urls(text)
        if self._rich.is_terminal:
            self._rich.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        try:
            self._rich.file.write(f"{text}\n")
            self._rich.file.flush()
        except OSError as error:
            if error.errno not in ERRORS_OF_A_FULL_DISK:
                raise
            self._tell_loss(error)

    def _tell_loss(self, error: OSError) -> None:
        if not self._is_loss_told:
            _write_immediately(f"warning: the output cannot be written ({error.strerror}); the work continues")
        self._is_loss_told = True

    def show_table(self, table: "Table") -> None:
        """Shows a table."""
        self._rich.print(table)

    def show_part(self, label: str, done: int, total: int, unit: str = "windows") -> None:
        """Shows the progress of the current item: a second bar, or a line now and then; nothing for a single step."""
        if total <= 1:
            return
        if self._bars is not None:
            self._update_part(self._bars, label, done, total)
        elif time.monotonic() - self._last_line_seconds >= PLAIN_LINE_SECONDS:
            self._last_line_seconds = time.monotonic()
            self.note(f"  {label}: {done}/{total} {unit}")

    def _update_part(self, bars: "RichProgress", label: str, done: int, total: int) -> None:
        if self._part is None:
            self._part = bars.add_task(label, rate="")
        bars.update(self._part, description=label, completed=done, total=total, visible=done < total)

    def track(self, items: Iterable[Item], *, label: str, total: Total, unit: str) -> Iterator[Item]:
        """Yields the items and shows count, rate and remaining time."""
        if self._rich.is_terminal:
            yield from self._track_on_terminal(items, label=label, total=total, unit=unit)
        else:
            yield from self._track_in_lines(items, label=label, total=total, unit=unit)

    def _track_on_terminal(self, items: Iterable[Item], *, label: str, total: Total, unit: str) -> Iterator[Item]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        started = time.monotonic()
        with Progress(*columns, console=self._rich) as bars:
            self._bars, self._part = bars, None
            task = bars.add_task(label, total=read_total(total), rate="")
            for count, item in enumerate(items, start=1):
                rate = format_rate(count, time.monotonic() - started, unit)
                bars.update(task, completed=count, total=read_total(total), rate=rate)
                yield item
        self._bars = None

    def _track_in_lines(self, items: Iterable[Item], *, label: str, total: Total, unit: str) -> Iterator[Item]:
        started = self._last_line_seconds = time.monotonic()
        for count, item in enumerate(items, start=1):
            now, of_all = time.monotonic(), read_total(total)
            if now - self._last_line_seconds >= PLAIN_LINE_SECONDS or count == of_all:
                self._last_line_seconds = now
                elapsed = now - started
                remaining = elapsed / count * max(0, of_all - count)
                rate = format_rate(count, elapsed, unit)
                self.note(f"{label}: {count}/{of_all} {unit}s, {rate}, {format_duration(remaining)} left")
            yield item


def open_console(*, plain_width: int = PLAIN_WIDTH) -> Console:
    """Opens a console on standard output; warnings of the library go to standard error.

    Args:
        plain_width: Characters per line if standard output is not a terminal.
    """
    import logging

    from rich.console import Console as RichConsole

    logging.basicConfig(level=logging.WARNING, format="autoseg: %(levelname)s: %(message)s", stream=sys.stderr)
    width = None if sys.stdout.isatty() else plain_width
    return Console(RichConsole(width=width))


def open_closed_streams() -> None:
    """Opens the null device for each standard stream that was closed before the start, such as with `>&-`.

    Otherwise the next file that is opened would get its descriptor, and what libraries print would be written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode)  # noqa: SIM115 (stays open until the end)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def flush_output() -> None:
    """Flushes standard output, and discards what cannot be written: the interpreter would fail at that in its end."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output([sys.stdout.fileno()])
        sys.stdout.flush()


def build_stop_request() -> StopRequest:
    """Builds a receiver of requests to end, which writes to standard error what it waits for."""
    terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream and stream.isatty()]
    return StopRequest(tell=_write_immediately, on_hangup=partial(_discard_output, terminals))


def _write_immediately(text: str) -> None:
    """Writes a line unbuffered, as a signal handler must."""
    with suppress(OSError, AttributeError):  # standard error may be closed, or be None
        os.write(sys.stderr.fileno(), f"\nautoseg: {text}\n".encode())


def _discard_output(descriptors: Iterable[int]) -> None:
    """Redirects closed terminals to the null device, so that writing to them does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


def format_rate(count: int, seconds: float, unit: str) -> str:
    """Formats items per second, or seconds per item if that is the larger number."""
    if seconds <= 0:
        return ""
    rate = count / seconds
    return f"{rate:.1f} {unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}"
