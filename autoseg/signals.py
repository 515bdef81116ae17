"""Who answers the signals that ask a program to end."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

CTRL_C: Final = "SIGINT"
OTHER_REQUESTS_TO_END: Final = ("SIGTERM", "SIGHUP")  # `kill`, and a terminal that is closed

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


@contextmanager
def signals_answered_by(handler: Handler, names: Sequence[str]) -> Iterator[None]:
    """Within it, a handler answers signals; names that a system does not have are left out.

    What is ignored, such as SIGHUP under nohup, stays so. Outside the main thread, which alone answers signals, this
    does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, former in zip(numbers, before, strict=True):
            signal.signal(number, former)
