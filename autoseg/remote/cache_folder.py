"""The cache for files by URL: where it is and how large it may become."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from autoseg.errors import OptionError

FOLDER_VARIABLE: Final = "AUTOSEG_REMOTE_CACHE"
SIZE_VARIABLE: Final = "AUTOSEG_REMOTE_CACHE_GB"
USUAL_GB: Final = 50.0  # guess: the images of most public datasets fit


def find_cache() -> Path:
    """Returns the folder of the cache, without links: that of the environment, or one in the user's cache folder."""
    return _resolve(os.environ.get(FOLDER_VARIABLE) or _find_usual_folder())


@contextmanager
def use_cache(folder: Path) -> Iterator[None]:
    """Context manager for the work on paths in the cache of another process, which this computer sees, too."""
    before = os.environ.get(FOLDER_VARIABLE)
    os.environ[FOLDER_VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[FOLDER_VARIABLE]
        if before is not None:
            os.environ[FOLDER_VARIABLE] = before


def _find_usual_folder() -> str:
    from autoseg.runtime.measurement_cache import find_measurement_cache  # late: readers of images need no schemas

    return str(find_measurement_cache("remote"))


@functools.lru_cache(maxsize=8)
def _resolve(folder: str) -> Path:
    return Path(folder).expanduser().resolve()


def is_in_cache(path: Path) -> bool:
    """Returns whether a path lies in the cache."""
    return str(path).startswith(f"{find_cache()}{os.sep}")


def read_size_limit() -> float:
    """Reads how many bytes the cache may hold.

    Raises:
        OptionError: The environment names no such number.
    """
    text = os.environ.get(SIZE_VARIABLE) or str(USUAL_GB)
    try:
        size_gb = float(text)
    except ValueError:
        size_gb = -1.0
    if not 0 <= size_gb < float("inf"):
        msg = f"{SIZE_VARIABLE} must be a number of gigabytes such as {USUAL_GB:g}, found {text!r}"
        raise OptionError(msg)
    return size_gb * 1e9
