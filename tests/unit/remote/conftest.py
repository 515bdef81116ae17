"""A faulty place by URL, and computers that use it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.remote_files import FaultyFileSystem, Node, open_faulty_place

from autoseg.remote import trimming


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FaultyFileSystem]]:
    with open_faulty_place(monkeypatch) as opened:
        yield opened


@pytest.fixture
def node(place: type[FaultyFileSystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    trimming._find_meter.cache_clear()
    return Node(tmp_path / "cache", "faulty://bucket/run", monkeypatch)


@pytest.fixture
def other_node(place: type[FaultyFileSystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path / "other cache", "faulty://bucket/run", monkeypatch)
