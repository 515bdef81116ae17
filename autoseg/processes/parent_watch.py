"""Ends processes whose parent has died, even by SIGKILL, which no process can answer.

Both functions wait for the end of a pipe that the parent holds open: the operating system closes it with the parent,
also if that died before the wait began, on Linux, macOS and Windows. (`PR_SET_PDEATHSIG` exists on Linux alone, and
the parent of a worker is the fork server, which lives as long as its workers.)
"""

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

WATCHES_INPUT: Final = "AUTOSEG_STOPS_AT_END_OF_INPUT"
"""Environment variable of a child whose standard input ends with its parent."""
SECONDS_TO_SAVE: Final = 600.0  # the running iteration takes minutes on a CPU, and disks may be slow
EXIT_CODE: Final = 1


def exit_with_parent() -> None:
    """Lets this worker process of `multiprocessing` exit at once when the main process has died."""
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent is not None, "this is not a worker process"
    threading.Thread(target=_exit_after, args=(parent,), name="parent watch", daemon=True).start()


def stop_with_parent() -> None:
    """Lets a command that `start_child` has started stop as after SIGTERM when its parent has died; it saves its work.

    Any other command is left as it is.
    """
    if os.environ.pop(WATCHES_INPUT, None) is None:
        return
    input_pipe = os.dup(0)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123  # no Path has the name of the null device
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=_stop_after, args=(input_pipe,), name="parent watch", daemon=True).start()


def _exit_after(parent: "BaseProcess") -> None:
    parent.join()
    os._exit(EXIT_CODE)


def _stop_after(input_pipe: int) -> None:
    while os.read(input_pipe, 1):
        pass
    _request_stop()
    time.sleep(SECONDS_TO_SAVE)
    os._exit(EXIT_CODE)


def _request_stop() -> None:
    import signal

    if sys.platform == "win32":  # there, `os.kill` would end the process at once
        import _thread

        _thread.interrupt_main()
    else:
        os.kill(os.getpid(), signal.SIGTERM)
