"""A clock that stands still until a test moves it."""

from collections.abc import Callable
from typing import Any


class Clock:
    """Takes the place of the module `time`, or of a function that tells the time.

    Attributes:
        now: The time, which tests may set.
    """

    def __init__(self, now: float = 0.0, *, seconds_per_look: float = 0.0) -> None:
        self.now = now
        self._seconds_per_look = seconds_per_look

    def __call__(self) -> float:
        """The time, after what each look takes."""
        self.now += self._seconds_per_look
        return self.now

    def perf_counter(self) -> float:
        """The same, under the name that it has in `time`."""
        return self()

    def after(self, action: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        """The action, which now takes some seconds."""

        def act(*arguments: Any) -> Any:
            result = action(*arguments)
            self.now += seconds
            return result

        return act
