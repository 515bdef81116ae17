"""How worker processes are started."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Final

# Forking a process that runs threads can deadlock. A fork server is a clean interpreter that runs none, and its forks
# share the memory of the modules that it has loaded. "spawn" starts a clean interpreter for every worker.
START_METHOD: Final = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"

# Ctrl-C, `kill` and a closed terminal.
REQUESTS_TO_END: Final = ("SIGINT", "SIGTERM", "SIGHUP")


def prepare_workers(modules: Sequence[str] = ()) -> BaseContext:
    """Starts the fork server, where there is one, and at once returns the context that starts workers.

    Workers ignore Ctrl-C, which a terminal sends to all processes, from their first moment on; the main process alone
    answers it. (Otherwise one that is just loading modules would print a traceback.)

    Args:
        modules: Loaded by the fork server meanwhile, so that no worker needs to. Without effect once it runs.
    """
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        from multiprocessing import forkserver

        if modules:
            context.set_forkserver_preload([*modules])
        with _ctrl_c_ignored():
            forkserver.ensure_running()
    return context


@contextmanager
def interruptions_held() -> Iterator[None]:
    """Within it, requests to end wait; the first of them is answered when it is left.

    For the moments in which workers are started. A request that came through would end the main process while the fork
    server, still loading modules, keeps a worker to be started: it would find that what it was given is gone, and print
    a traceback. Where signals are not answered anyway (outside the main thread), this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        del frame
        held.append(number)

    known = [getattr(signal, name) for name in REQUESTS_TO_END if hasattr(signal, name)]
    answered = [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, hold) for number in answered]
    try:
        yield
    finally:
        for number, handler in zip(answered, before, strict=True):
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Programs that are started within it go on ignoring it. Only the main thread can decide so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
