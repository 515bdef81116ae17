"""Groups of the cases of a converted dataset, such as those of one patient."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from autoseg.dataset.layouts.layout import GroupTable, Layout, compile_pattern
from autoseg.errors import DatasetError, Problem
from autoseg.workflows.convert.cases import ConvertedCase

MOST_TABLE_BYTES: Final = 2**24


def find_groups(layout: Layout, cases: Iterable[ConvertedCase], root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Returns the group of every case; empty if each case is a group of its own.

    Raises:
        DatasetError: The table of groups cannot be read.
    """
    table = _read_table(layout.group, root, paths) if isinstance(layout.group, GroupTable) else {}
    groups = {name: _find_group(layout, case, index, table) for case in cases for index, name in enumerate(case.names)}
    return groups if len(set(groups.values())) < len(groups) else {}


def _find_group(layout: Layout, case: ConvertedCase, index: int, table: Mapping[str, str]) -> str:
    name = case.names[index]
    if layout.slices_per_group:
        first = index // layout.slices_per_group * layout.slices_per_group
        return f"{case.names[first]} and following"
    if isinstance(layout.group, str):
        return layout.group.format_map(case.source.fields) or name
    return table.get(layout.name_case(case.source.fields), name)


def _read_table(table: GroupTable, root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Reads the groups by name of the case; empty if there is no such file."""
    expression = compile_pattern(table.pattern)
    path = next((root / path for path in paths if expression.fullmatch(path)), None)
    if path is None:
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file.read(MOST_TABLE_BYTES).splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        msg = f"{path} cannot be read:"
        raise DatasetError(msg, [Problem(text=str(error))]) from error
    return _select_columns(table, [[cell.strip() for cell in row] for row in rows], path)


def _select_columns(table: GroupTable, rows: list[list[str]], path: Path) -> dict[str, str]:
    heading = rows[0] if rows else []
    missing = [column for column in (table.case_column, table.group_column) if column not in heading]
    if missing:
        text = f"expected the columns {table.case_column!r} and {table.group_column!r}, found {heading!r:.200}"
        msg = f"{path} does not tell which cases belong together:"
        raise DatasetError(msg, [Problem(text=text)])
    case, group = (heading.index(column) for column in (table.case_column, table.group_column))
    return {row[case]: row[group] for row in rows[1:] if len(row) > max(case, group) and row[group]}
