"""Interface for progress reports, which a terminal or a log implements."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


@runtime_checkable
class Progress(Protocol):
    """Shows progress."""

    def track(self, items: Iterable[Item], *, label: str, total: int, unit: str) -> Iterator[Item]:
        """Yields the items unchanged and shows count, rate and remaining time."""
        ...

    def show_part(self, label: str, done: int, total: int) -> None:
        """Shows how far the current item is, for items that take long."""
        ...

    def note(self, text: str) -> None:
        """Shows a line of text."""
        ...


class SilentProgress:
    """Shows nothing."""

    def track(self, items: Iterable[Item], *, label: str, total: int, unit: str) -> Iterator[Item]:
        """Yields the items unchanged."""
        del label, total, unit
        yield from items

    def show_part(self, label: str, done: int, total: int) -> None:
        """Does nothing."""
        del label, done, total

    def note(self, text: str) -> None:
        """Does nothing."""
        del text


def format_duration(seconds: float) -> str:
    """Formats a duration like 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
