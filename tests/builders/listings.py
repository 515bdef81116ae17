"""Counts how often folders are listed."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest


def count_listings(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """Returns the numbers of listings of each folder, which grow from now on."""
    counts, list_folder = Counter[Path](), Path.iterdir

    def count(folder: Path) -> Iterator[Path]:
        counts[folder] += 1
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", count)
    return counts
