"""Interface for progress reports, which a terminal or a log implements."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")
Total = int | Callable[[], int]
"""Number of items; a function where it changes while they are counted."""


@runtime_checkable
class Progress(Protocol):
    """Shows progress."""

    def track(self, items: Iterable[Item], *, label: str, total: Total, unit: str) -> Iterator[Item]:
        """Yields the items unchanged and shows count, rate and remaining time."""
        ...

    def show_part(self, label: str, done: int, total: int, unit: str = "windows") -> None:
        """Shows how far the current item is, for items that take long."""
        ...

    def note(self, text: str) -> None:
        """Shows a line of text."""
        ...


class SilentProgress:
    """Shows nothing."""

    def track(self, items: Iterable[Item], *, label: str, total: Total, unit: str) -> Iterator[Item]:
        """Yields the items unchanged."""
        del label, total, unit
        yield from items

    def show_part(self, label: str, done: int, total: int, unit: str = "windows") -> None:
        """Does nothing."""
        del label, done, total, unit

    def note(self, text: str) -> None:
        """Does nothing."""
        del text


def read_total(total: Total) -> int:
    """Returns the present number of items."""
    return total if isinstance(total, int) else total()


def format_duration(seconds: float) -> str:
    """Formats a duration like 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
