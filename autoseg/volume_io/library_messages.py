"""Contains side effects of C libraries on the process: HDF5 and MINC print dozens of lines about a broken file, ITK's
reader and writer of VTK files change the locale."""

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
    """Sends what is written to the process's standard error meanwhile to the log (level debug).

    The stream of the process is replaced, for such libraries know no other switch; keep the block short.
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
    """Puts the locale of the process back afterwards.

    ITK sets it to "C" when it meets a VTK file, and leaves it there: from then on Python would take the text of files
    and programs for ASCII.
    """
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)
