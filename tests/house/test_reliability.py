"""docs/reliability.md names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")


def list_rows() -> list[list[str]]:
    """The rows of the tables whose last column names tests."""
    rows: list[list[str]] = []
    is_inside = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        is_inside = line.startswith("|") and (is_inside or cells[-1] == "tests")
        if is_inside and cells[-1] != "tests" and set(cells[0]) != {"-"}:
            rows.append(cells)
    return rows


def test_every_test_that_is_named_exists() -> None:
    names = re.findall(r"`(tests/[^`]*)`", PAGE.read_text(encoding="utf-8"))
    assert len(names) > 20
    assert sorted({name for name in names if not (ROOT / name).is_file()}) == []


def test_a_row_names_a_test_or_is_open() -> None:
    rows = list_rows()
    assert len(rows) > 30
    assert [row[0] for row in rows if ("`tests/" in row[-1]) == ("open" in row[1:])] == []
