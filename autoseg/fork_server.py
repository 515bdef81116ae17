"""Starts worker processes from a fork server."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Final

from autoseg.signals import CTRL_C, OTHER_REQUESTS_TO_END, signal_handlers

# Forking a process that runs threads can deadlock. A fork server is a clean interpreter that runs none, and its forks
# share the memory of the modules that it has loaded. "spawn" starts a clean interpreter for every worker.
START_METHOD: Final = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def prepare_workers(modules: Sequence[str] = ()) -> BaseContext:
    """Starts the fork server, where there is one, and at once returns the context that starts workers.

    Workers ignore Ctrl-C from their first moment on (one that is just loading modules would print a traceback), and
    other requests to end, too: a terminal, a cluster's scheduler and systemd send them to all processes, and the main
    process alone answers them. What workers hold is needed until it has saved its state.

    Args:
        modules: Loaded by the fork server meanwhile, so that no worker needs to. Without effect once it runs.
    """
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        from multiprocessing import forkserver

        if modules:
            context.set_forkserver_preload([*modules])
        # Programs that are started meanwhile go on ignoring what is ignored now.
        with signal_handlers(signal.SIG_IGN, (CTRL_C, *OTHER_REQUESTS_TO_END)):
            forkserver.ensure_running()
    return context


@contextmanager
def interruptions_held() -> Iterator[None]:
    """Within it, requests to end wait; the first of them is answered when it is left.

    For the moments in which workers are started. A request that came through would end the main process while the fork
    server, still loading modules, keeps a worker to be started: it would find that what it was given is gone, and print
    a traceback.
    """
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        del frame
        held.append(number)

    try:
        with signal_handlers(hold, (CTRL_C, *OTHER_REQUESTS_TO_END)):
            yield
    finally:
        if held:
            signal.raise_signal(held[0])
