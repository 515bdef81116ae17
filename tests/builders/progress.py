"""Progress that is remembered, and pictures of it that are not drawn."""

from collections.abc import Iterable, Iterator

import pytest

from autoseg.processes.progress import Item, SilentProgress, Total, read_total


class Notes(SilentProgress):
    """Remembers what it is told.

    Attributes:
        lines: The notes.
        labels: What was tracked: labels of series of items.
        totals: Of how many items each series was said to be.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.labels: list[str] = []
        self.totals: list[int] = []

    @property
    def text(self) -> str:
        """All notes, one a line."""
        return "\n".join(self.lines)

    def track(self, items: Iterable[Item], *, label: str, total: Total, unit: str) -> Iterator[Item]:
        """Yields the items unchanged."""
        self.labels.append(label)
        self.totals.append(read_total(total))
        return super().track(items, label=label, total=total, unit=unit)

    def note(self, text: str) -> None:
        """Keeps the line."""
        self.lines.append(text)


def skip_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixture's body: trainings leave empty pictures, as drawing takes longer than a tiny training."""
    for module in ("autoseg.training.monitoring.history_files", "autoseg.workflows.train.training"):
        monkeypatch.setattr(f"{module}.write_progress_picture", lambda path, *_, **__: path.write_bytes(b""))
