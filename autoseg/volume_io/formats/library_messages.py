"""Contains side effects of C libraries on the process: HDF5 and MINC print dozens of lines about a broken file, and
ITK's reader and writer of VTK files change the locale."""

import locale
from collections.abc import Iterator
from contextlib import contextmanager

from autoseg.processes.library_output import redirect_library_messages

__all__ = ["preserve_locale", "redirect_library_messages"]


@contextmanager
def preserve_locale() -> Iterator[None]:
    """Restores the locale of the process after the block.

    ITK sets it to "C" for VTK files and does not reset it: from then on Python would decode the text of files and
    programs as ASCII.
    """
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)
