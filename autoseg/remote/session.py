"""The use of URLs by one command: brought up to date before it, published during it and at its end."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from autoseg.errors import AutosegError
from autoseg.processes.fold_lock import try_lock
from autoseg.remote.mirror import UrlMirror, open_mirror
from autoseg.remote.syncing import Synchronizer
from autoseg.remote.trimming import trim_cache

SECONDS_BETWEEN: Final = 60.0  # guess: what a computer that dies may lose, against requests to the store

logger = logging.getLogger(__name__)


@contextmanager
def open_to_read(url: str, *, refreshes: bool = False) -> Iterator[Path]:
    """Yields the local path that stands for a URL, whose images and checkpoints are fetched when they are read.

    Args:
        url: Folder or file.
        refreshes: Whether to take over changes from time to time.

    Raises:
        RemoteError: It cannot be read.
    """
    with (
        _open_mirror(open_mirror(url)) as (mirror, synchronizer),
        _repeat(synchronizer.pull if refreshes else None),
    ):
        yield mirror.root


@contextmanager
def open_to_write(url: str, *, is_file: bool = False) -> Iterator[Path]:
    """Yields the local path that stands for a URL, and publishes what is written there: every minute, and at the end.

    Args:
        url: Folder or file, which need not exist.
        is_file: Whether it is, or becomes, a file.

    Raises:
        RemoteError: It cannot be read or written; what could not be published is published by the next command.
    """
    with _open_mirror(open_mirror(url, is_file=is_file)) as (mirror, synchronizer):
        try:
            with _repeat(synchronizer.push):
                yield mirror.root
        except BaseException:
            try:
                synchronizer.push()
            except AutosegError as error:
                logger.warning("not everything is published, the next command tries again: %s", error)
            raise
        synchronizer.push()


@contextmanager
def _open_mirror(mirror: UrlMirror) -> Iterator[tuple[UrlMirror, Synchronizer]]:
    """Brings a mirror up to date and keeps it."""
    with try_lock(mirror.in_use) as is_alone:
        pass
    with mirror.keep():
        synchronizer = Synchronizer(mirror, restores=is_alone)
        synchronizer.pull()
        trim_cache()
        yield mirror, synchronizer


@contextmanager
def _repeat(action: Callable[[], object] | None) -> Iterator[None]:
    """Calls a function, if there is one, from time to time in a thread, until the block ends."""
    if action is None:
        yield
        return
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(timeout=SECONDS_BETWEEN):
            try:
                action()
            except AutosegError as error:
                logger.warning("tried again in %.0f s: %s", SECONDS_BETWEEN, error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
