"""Handling of signals that ask a program to end."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

CTRL_C: Final = "SIGINT"
HANGUP: Final = "SIGHUP"
TERMINATION_SIGNALS: Final = ("SIGTERM", HANGUP, "SIGBREAK")  # kill; closed terminal; queue on Windows
REQUESTS_UNTIL_FORCED_STOP: Final = 3  # pressing Ctrl-C twice in a row may be an accident
SECONDS_OF_REPETITION: Final = 1.0  # a signal that follows a stop so soon is the same request

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


class StopSignal(KeyboardInterrupt):
    """Work ends because a signal asked for it.

    Attributes:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def __str__(self) -> str:
        """Returns no text, like a plain KeyboardInterrupt."""
        return ""


def find_signal(interruption: BaseException) -> signal.Signals:
    """Finds the signal that an interruption comes from, along its causes; SIGINT for a plain KeyboardInterrupt."""
    error: BaseException | None = interruption
    while error is not None:
        if isinstance(error, StopSignal):
            return signal.Signals(error.number)
        error = error.__cause__
    return signal.SIGINT


@contextmanager
def signal_handlers(handler: Handler, names: Sequence[str]) -> Iterator[None]:
    """Installs a signal handler within the block; names that the system does not have are ignored.

    Signals that are ignored, such as SIGHUP under nohup, stay ignored. Outside of the main thread, which alone handles
    signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = list_unignored_signals(names)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, former in zip(numbers, before, strict=True):
            signal.signal(number, former)


def list_unignored_signals(names: Sequence[str]) -> list[signal.Signals]:
    """Lists the signals that exist on the system and are not ignored by this process."""
    known = [signal.Signals[name] for name in names if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def _say_nothing(text: str) -> None:
    del text


def _do_nothing() -> None:
    pass


@dataclass(slots=True, kw_only=True)
class StopRequest:
    """Requests to stop: Ctrl-C, SIGTERM, or a closed terminal.

    A request raises StopSignal at once, except within `postpone_stop`, where the work checks `is_requested`
    between its steps and stops at a point where it can be resumed.

    Attributes:
        tell: Called by the signal handler with a message about the work that a postponed request waits for.
        on_hangup: Called by the signal handler when the terminal was closed; writing to it fails from then on.
    """

    tell: Callable[[str], None] = _say_nothing
    on_hangup: Callable[[], None] = _do_nothing
    _waits_for: str | None = field(default=None, init=False)
    _is_urgent: bool = field(default=False, init=False)
    _count: int = field(default=0, init=False)
    _number: int = field(default=signal.SIGINT, init=False)
    _stop_seconds: float = field(default=-math.inf, init=False)

    @property
    def is_requested(self) -> bool:
        """Whether a request was made since the start of `postpone_stop`."""
        return self._count > 0

    @contextmanager
    def handle_signals(self, names: Sequence[str] = (CTRL_C, *TERMINATION_SIGNALS)) -> Iterator[None]:
        """Handles these signals as requests to stop within the block."""
        with signal_handlers(self._answer, names):
            yield

    @contextmanager
    def postpone_stop(self, pending_work: str) -> Iterator[None]:
        """Postpones requests within the block, up to the third one.

        Args:
            pending_work: Description of the work that is finished first, for messages.

        Raises:
            StopSignal: A request was made within the block; raised at its end, or in place of a KeyboardInterrupt.
        """
        self._count, self._waits_for = 0, pending_work
        try:
            yield
        except KeyboardInterrupt as interruption:
            if self.is_requested:
                raise self._build_stop(self._number) from interruption
            raise
        finally:
            self._waits_for = None
        if self.is_requested:
            raise self._build_stop(self._number)

    @contextmanager
    def allow_immediate_stop(self) -> Iterator[None]:
        """Lets one request raise StopSignal at once, even within `postpone_stop`; further ones are postponed."""
        self._is_urgent = True
        try:
            yield
        finally:
            self._is_urgent = False

    def _answer(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._count += 1
        if self._count == 1:
            self._number = number
        if number == getattr(signal, HANGUP, None):
            self.on_hangup()
        if self._waits_for is None and number != signal.SIGINT and self._has_just_stopped():
            return  # schedulers repeat themselves, and what the first request made is still being tidied up
        if self._waits_for is None or self._is_urgent or self._count >= REQUESTS_UNTIL_FORCED_STOP:
            self._is_urgent = False
            raise self._build_stop(number)
        if self._count == 1:
            self.tell(f"stopping as soon as {self._waits_for}")
        else:
            self.tell("still stopping; Ctrl-C once more stops at once, and loses what is not saved")

    def _has_just_stopped(self) -> bool:
        """Whether a stop is being answered; after a while it may have been lost, as in a callback of a library."""
        return time.monotonic() - self._stop_seconds < SECONDS_OF_REPETITION

    def _build_stop(self, number: int) -> StopSignal:
        self._stop_seconds = time.monotonic()
        return StopSignal(number)
