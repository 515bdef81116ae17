"""Contains side effects of C libraries on the process: HDF5 and MINC print dozens of lines about a broken file, and
ITK's reader and writer of VTK files change the locale."""

import locale
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LOGGER = logging.getLogger(__name__)
STANDARD_ERROR: Final = 2
ONE_AT_A_TIME: Final = threading.Lock()


@contextmanager
def redirect_library_messages() -> Iterator[None]:
    """Redirects the standard error of the process to the log (level debug) within the block.

    The stream of the whole process is replaced, as such libraries have no other setting; keep the block short.
    """
    with ONE_AT_A_TIME, tempfile.TemporaryFile() as messages:
        if sys.stderr is not None:
            sys.stderr.flush()
        terminal = os.dup(STANDARD_ERROR)
        os.dup2(messages.fileno(), STANDARD_ERROR)
        try:
            yield
        finally:
            os.dup2(terminal, STANDARD_ERROR)
            os.close(terminal)
            messages.seek(0)
            text = messages.read().decode(errors="replace").strip()
            if text:
                LOGGER.debug("%s", text)


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
