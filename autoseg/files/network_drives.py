"""Reads what another computer has just written to a network drive.

A client of NFS keeps for up to a minute what it knows of names, sizes and times, and also which names do not exist. It
asks the server again when a file or folder is opened: so opening a folder shows which names it has now, and a file that
is opened says its own size and time.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

Content = TypeVar("Content")

ERRORS_OF_A_READER: Final = (OSError, RuntimeError, ValueError)


def refresh_folder(folder: Path) -> None:
    """Has a network drive show the names that a folder has now; does nothing elsewhere, or if there is no folder."""
    with suppress(OSError), os.scandir(folder):
        pass


def read_again_if_outdated(folder: Path, read: Callable[[], Content]) -> Content:
    """Reads files of a folder, and once more with the names that it has now if the first time fails.

    Raises:
        Exception: As `read`.
    """
    try:
        return read()
    except ERRORS_OF_A_READER:
        refresh_folder(folder)
        return read()
