"""What libraries in C write to the terminal by themselves: HDF5 and MINC print dozens of lines about a broken file."""

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
def divert_library_messages() -> Iterator[None]:
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
