"""Keeps what libraries print from the terminal: notes about caches and fonts, warnings, messages of C libraries.

They name places in a library's code, not the user's case, and worry people who cannot act on them. Whatever matters
for a result is checked by autoseg itself and reported in its own words.
"""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LOGGER = logging.getLogger(__name__)
TALKATIVE_LIBRARIES: Final = (
    "matplotlib",
    "nibabel",
    "tifffile",
    "PIL",
    "numexpr",
    "blosc2",
    "fontTools",
    "py.warnings",
)
"""Loggers; "py.warnings" has those of the module `warnings`."""
TORCH_LOGS: Final = ("TORCH_LOGS", "-all")  # its loggers have handlers of their own: errors alone
STANDARD_ERROR: Final = 2
ONE_AT_A_TIME: Final = threading.Lock()


def silence_libraries() -> None:
    """Keeps warnings and log messages of libraries from the terminal, in this process.

    Whoever asks for them gets them: Python's option -W or the variable PYTHONWARNINGS, and TORCH_LOGS.
    """
    for name in TALKATIVE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault(*TORCH_LOGS)
    if not sys.warnoptions:
        logging.captureWarnings(capture=True)


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
