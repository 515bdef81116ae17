"""Starts worker processes from a fork server."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Final

from autoseg.files.temporary_files import mark_multiprocessing_folder
from autoseg.processes.signals import CTRL_C, TERMINATION_SIGNALS, signal_handlers

# Forking a process that runs threads can deadlock. A fork server is a clean interpreter that runs none, and its forks
# share the memory of the modules that it has loaded. "spawn" starts a clean interpreter for every worker.
START_METHOD: Final = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
LIBRARIES: Final = ("blosc2", "cc3d", "isal.igzip", "nibabel", "scipy.ndimage", "scipy.sparse.csgraph")
"""Libraries that work on cases imports; it takes about half a second."""


def prepare_worker_context(modules: Sequence[str] = ()) -> BaseContext:
    """Starts the fork server, if the platform has one, and returns the context that starts workers without waiting.

    Workers ignore Ctrl-C and other termination signals from their start on: a terminal, a cluster's scheduler and
    systemd send them to all processes, and only the main process handles them. It needs its workers until it has saved
    its state, and a worker that is just loading modules would print a traceback.

    Args:
        modules: Modules that the fork server preloads for all workers. Without effect once it runs.
    """
    mark_multiprocessing_folder()
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        from multiprocessing import forkserver

        if modules:
            context.set_forkserver_preload([*modules])
        # Programs that are started within the block inherit the ignored signals.
        with signal_handlers(signal.SIG_IGN, (CTRL_C, *TERMINATION_SIGNALS)):
            forkserver.ensure_running()
    return context


def prepare_context_of_work(work: Callable[..., object]) -> BaseContext:
    """As `prepare_worker_context`; a fork server that it starts loads what the work on a case needs, for all pools."""
    function = work.func if isinstance(work, partial) else work
    module = getattr(function, "__module__", None)  # methods of built-in types have none
    own = [] if module in {None, "__main__"} else [module]  # a script is run by its workers
    return prepare_worker_context([*own, *LIBRARIES])


def exit_on_thread_errors() -> None:
    """Lets a worker process exit with a traceback if one of its threads fails, such as the one that sends its results.

    Otherwise it would live on, and the main process would wait for a result that never comes.
    """
    from multiprocessing.queues import Queue

    def exit_after(error: BaseException | None) -> None:
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)

    threading.excepthook = lambda failed: exit_after(failed.exc_value)
    Queue._on_queue_feeder_error = staticmethod(lambda error, thing: exit_after(error))  # type: ignore[attr-defined]


@contextmanager
def defer_interruptions() -> Iterator[None]:
    """Defers termination signals to the end of the block; the first of them is raised then.

    To be used while workers are started. A signal would end the main process while the fork server, which may still be
    loading modules, has a worker to start: it would find its resources released, and print a traceback.
    """
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        del frame
        held.append(number)

    try:
        with signal_handlers(hold, (CTRL_C, *TERMINATION_SIGNALS)):
            yield
    finally:
        if held:
            signal.raise_signal(held[0])
