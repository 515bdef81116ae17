"""Surveys the headers of a dataset: orientations, and files of one case whose grids differ slightly."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg.dataset import Case
from autoseg.document import PackedMapping
from autoseg.errors import Problem, describe_cases, group_problems
from autoseg.geometry import Grid
from autoseg.remote.local_files import fetch_ahead
from autoseg.volume_io import explain_spacings, has_same_voxels, list_grid_differences
from autoseg.workflows.cases.reading import try_reading_grid


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderSurvey:
    """Result of a survey of headers.

    Attributes:
        orientations: Axis codes (x, y, z) with the number of cases, the most frequent first; pictures have none.
        notes: Remarks, one sentence each.
        grids: Grid of the first channel by case name, for every case whose header can be read; without its origin.
    """

    orientations: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]
    grids: Mapping[str, Grid]


class GridCodec:
    """Packs grids without their origin."""

    def pack(self, grid: Grid) -> tuple[Any, ...]:
        """Returns everything else."""
        direction = tuple(tuple(map(float, axis)) for axis in grid.direction)
        lengths = tuple(map(int, grid.shape_voxels)), tuple(map(float, grid.spacing_mm))
        return *lengths, direction, grid.is_oriented, grid.tells_spacing

    def unpack(self, packed: Any) -> Grid:
        """Builds a grid that begins at the origin of the world."""
        shape_voxels, spacing_mm, direction, is_oriented, tells_spacing = packed
        return Grid(
            shape_voxels=shape_voxels,
            spacing_mm=spacing_mm,
            direction=direction,
            is_oriented=is_oriented,
            tells_spacing=tells_spacing,
        )


@dataclass(slots=True)
class _Found:
    grids: PackedMapping[Grid] = field(default_factory=lambda: PackedMapping(GridCodec()))
    codes: Counter[str] = field(default_factory=Counter)
    slightly_different: list[str] = field(default_factory=list)
    fixes: list[Problem] = field(default_factory=list)


def survey_headers(cases: Sequence[Case]) -> HeaderSurvey:
    """Reads every header; unreadable files are skipped, as reading the case reports them."""
    found = _Found()
    with _collect_warnings() as warnings:
        for case in fetch_ahead(cases, _list_files):
            grid = try_reading_grid(case.image_paths[0])
            if grid is None:
                continue
            found.grids.add(case.name, grid)
            if grid.is_oriented:
                found.codes[grid.orientation_code] += 1
            _compare_files(case, grid, found)
    orientations = tuple(sorted(found.codes.items(), key=lambda item: (-item[1], item[0])))
    notes = [*_describe_orientations(orientations), *_describe_small_differences(found.slightly_different)]
    return HeaderSurvey(
        orientations=orientations,
        notes=(*notes, *(fix.describe() for fix in group_problems(found.fixes)), *_describe_warnings(warnings)),
        grids=found.grids,
    )


def _list_files(case: Case) -> list[Path]:
    return [*case.image_paths, *([] if case.label_path is None else [case.label_path])]


class _Collector(logging.Handler):
    """Collects warnings of the header readers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _collect_warnings() -> Iterator[list[logging.LogRecord]]:
    logger, collector = logging.getLogger("autoseg.volume_io"), _Collector()
    propagated = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield collector.records
    finally:
        logger.propagate = propagated
        logger.removeHandler(collector)


def _describe_warnings(records: Sequence[logging.LogRecord]) -> list[str]:
    """Writes one note for each kind of warning: its first occurrence and the number of others."""
    kinds: dict[str, list[str]] = {}
    for record in records:
        kinds.setdefault(str(record.msg), []).append(record.getMessage())
    return [
        f"warning: {messages[0]}" + (f" (and so in {len(messages) - 1} other files)" if len(messages) > 1 else "")
        for messages in kinds.values()
    ]


def _compare_files(case: Case, grid: Grid, found: _Found) -> None:
    first = case.image_paths[0]
    is_slightly_different = False
    for path in _list_files(case)[1:]:
        other = try_reading_grid(path)
        if other is None:
            continue
        if list_grid_differences(grid, other):
            is_resampled = case.fix_geometry and grid.is_oriented and other.is_oriented
            if is_resampled and explain_spacings(grid, other) is None:
                found.fixes.append(_describe_fix(case, path, other, first=first, grid=grid))
        elif list_grid_differences(grid, other, is_exact=True):
            is_slightly_different = True
    if is_slightly_different:
        found.slightly_different.append(case.name)


def _describe_fix(case: Case, path: Path, other: Grid, *, first: Path, grid: Grid) -> Problem:
    method = "nearest neighbour" if path == case.label_path else "linear interpolation"
    text = (
        f"--fix-geometry resamples {path.name} by {method} onto the grid of {first.name}{_warn_of_place(grid, other)}\n"
        f"    from {other.describe()}\n"
        f"    onto {grid.describe()}"
    )
    return Problem(text=text, cases=(case.name,))


def _warn_of_place(grid: Grid, other: Grid) -> str:
    """Warns where headers of the same shape and spacing differ, of which one is probably wrong."""
    if not has_same_voxels(grid, other):
        return ""
    return ", although shape and spacing agree: if one header is wrong, it moves what the voxels show; compare both"


def _describe_orientations(orientations: Sequence[tuple[str, int]]) -> list[str]:
    if len(orientations) < 2:
        return []
    counts = ", ".join(f"{code} ({count})" for code, count in orientations)
    return [
        f"images are stored in {len(orientations)} orientations: {counts}; all are brought to {orientations[0][0]} "
        f"without interpolation, and results go back to each image's own"
    ]


def _describe_small_differences(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        f"headers of files of one case differ by up to 0.001 mm or 0.001 of a direction, which is taken as rounding: "
        f"{describe_cases(names)}"
    ]
