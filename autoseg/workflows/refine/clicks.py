"""Reads the clicks of a user: JSON, CSV, or points of 3D Slicer.

Voxel indices are those that viewers show, x, y, z (i, j, k), but for the columns of napari, which are array axes.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from autoseg.errors import PredictionError
from autoseg.geometry import FloatTriple, Grid, IntTriple
from autoseg.labels import LabelScheme
from autoseg.untrusted.json_reading import read_json

MARKUPS_ENDING: Final = ".mrk.json"
POSITION_KEY, VOXEL_KEY, LABEL_KEY = "position_mm", "voxel", "label"
COLUMNS: Final = {
    ("x_mm", "y_mm", "z_mm"): POSITION_KEY,
    ("i", "j", "k"): VOXEL_KEY,
    ("axis-2", "axis-1", "axis-0"): VOXEL_KEY,
    ("i", "j"): VOXEL_KEY,
    ("axis-1", "axis-0"): VOXEL_KEY,
}
"""Columns of a CSV file in the order x, y, z, sought in this order; `axis` is what points have that napari saves. Two
columns place a click in an image of one slice."""
BACKGROUND_NAME: Final = "background"
MARKUPS_SIGNS: Final = {"LPS": -1, "1": -1, "RAS": 1, "0": 1}
LARGEST_FILE_BYTES: Final = 2**24
NUMBERED: Final = re.compile(r"-\d+$")
EXAMPLE: Final = '{"clicks": [{"position_mm": [12.5, -3, 40], "label": 1}, {"voxel": [10, 20, 30], "label": 0}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Click:
    """A voxel whose label the user knows.

    Attributes:
        voxel: Voxel (z, y, x) of the image file.
        label: Internal label.
    """

    voxel: IntTriple
    label: int


def read_clicks(path: Path, grid: Grid, labels: LabelScheme) -> tuple[Click, ...]:
    """Reads clicks and finds their voxels, in the order of the file.

    Args:
        path: A file .json, .csv or .mrk.json.
        grid: Grid of the image.
        labels: Labels of the model.

    Raises:
        PredictionError: The file is of another form, or a click lies outside the image or has an unknown label.
        DocumentError: The file cannot be read, or is no JSON.
    """
    return tuple(_build_click(row, grid, labels, where=where) for where, row in _list_rows(path))


def _list_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    name = path.name.lower()
    if name.endswith(MARKUPS_ENDING):
        return _list_markups(path)
    if name.endswith(".json"):
        return _list_json(path)
    if name.endswith(".csv"):
        return _list_csv(path)
    msg = f"{path}: clicks are read from .json, .csv and {MARKUPS_ENDING} files; save them as one of these"
    raise PredictionError(msg)


def _list_json(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    content = read_json(path, most_bytes=LARGEST_FILE_BYTES)
    for index, row in enumerate(_get_list(content, "clicks", path, example=EXAMPLE)):
        if not isinstance(row, dict) or LABEL_KEY not in row or (POSITION_KEY in row) == (VOXEL_KEY in row):
            msg = (
                f"{path}: clicks.{index}: a click has a {LABEL_KEY}, and either a {POSITION_KEY} or a {VOXEL_KEY}, "
                f"found {row!r:.200}; write it as in {EXAMPLE}"
            )
            raise PredictionError(msg)
        yield f"{path}: clicks.{index}", row


def _list_markups(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Lists the points of all lists in a file of 3D Slicer, which says LPS or RAS, but for points not placed yet."""
    content = read_json(path, most_bytes=LARGEST_FILE_BYTES)
    for number, markups in enumerate(_get_list(content, "markups", path, example="markups of 3D Slicer")):
        if not isinstance(markups, dict):
            msg = f"{path}: markups.{number}: expected a list of points, found {markups!r:.200}; save it in 3D Slicer"
            raise PredictionError(msg)
        sign = _find_markups_sign(markups, f"{path}: markups.{number}")
        points = _get_list(markups, "controlPoints", path, example="control points of 3D Slicer")
        for index, point in enumerate(points):
            if isinstance(point, dict) and point.get("positionStatus", "defined") != "defined":
                continue
            where = f"{path}: markups.{number}.controlPoints.{index}"
            x, y, z = _read_triple(point.get("position") if isinstance(point, dict) else None, where)
            yield where, {POSITION_KEY: (sign * x, sign * y, z), LABEL_KEY: str(point.get("label", ""))}


def _find_markups_sign(markups: Mapping[str, Any], where: str) -> int:
    """Finds the sign of x and y in RAS: 3D Slicer names the coordinate system, or numbers it in older files."""
    found, unit = markups.get("coordinateSystem", "LPS"), markups.get("coordinateUnits", "mm")
    sign = MARKUPS_SIGNS.get(str(found).upper())
    if sign is None or unit != "mm":
        msg = (
            f"{where}: expected the coordinateSystem LPS or RAS in mm, found {found!r:.200} in {unit!r:.200}; save the "
            f"points again in 3D Slicer"
        )
        raise PredictionError(msg)
    return sign


def _get_list(content: Any, key: str, path: Path, *, example: str) -> list[Any]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        msg = f"{path}: expected an object with a list {key!r}, found {content!r:.200}; write it like {example}"
        raise PredictionError(msg)
    return found


def _list_csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            msg = f"{path}: expected at most {LARGEST_FILE_BYTES} bytes, found {path.stat().st_size}; leave out clicks"
            raise PredictionError(msg)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read ({error}); give a CSV file in UTF-8"
        raise PredictionError(msg) from error
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    names = [name.strip().lower() for name in rows.fieldnames or ()]
    rows.fieldnames = names
    columns = next((columns for columns in COLUMNS if set(columns) <= set(names)), None)
    if columns is None or LABEL_KEY not in names:
        wanted = "; ".join(", ".join((*columns, LABEL_KEY)) for columns in COLUMNS)
        msg = f"{path}: the first line names columns, one of: {wanted}; found {', '.join(names) or 'nothing'}; add them"
        raise PredictionError(msg)
    for row in rows:
        if any(row.get(None, ())):  # not only a comma at the end
            msg = (
                f"{path}: line {rows.line_num}: expected {len(names)} values, as the first line names, found "
                f"{len(names) + len(row[None])}; write decimals with a point, as in 12.5"
            )
            raise PredictionError(msg)
        yield (
            f"{path}: line {rows.line_num}",
            {COLUMNS[columns]: [row[name] for name in columns], LABEL_KEY: row["label"]},
        )


def _build_click(row: Mapping[str, Any], grid: Grid, labels: LabelScheme, *, where: str) -> Click:
    label = _find_label(row[LABEL_KEY], labels, where)
    if VOXEL_KEY in row:
        place = _read_triple(_complete_voxel(row[VOXEL_KEY], grid, where), where)
    else:
        place = _find_index(_read_triple(row[POSITION_KEY], where), grid, where)
    x, y, z = (math.floor(value + 0.5) for value in place)
    depth, height, width = grid.shape_voxels
    if not (0 <= x < width and 0 <= y < height and 0 <= z < depth):
        msg = (
            f"{where}: the click is outside the image: expected a voxel (x, y, z) below ({width}, {height}, {depth}), "
            f"found ({x}, {y}, {z}); world coordinates are millimetres in RAS, and the image has {grid.describe()}"
        )
        raise PredictionError(msg)
    return Click(voxel=(z, y, x), label=label)


def _complete_voxel(values: Any, grid: Grid, where: str) -> Any:
    """Adds the slice to the two indices x, y of a voxel in an image of one slice.

    Raises:
        PredictionError: The image has several slices.
    """
    if not isinstance(values, list | tuple) or len(values) != 2:
        return values
    if grid.shape_voxels[0] == 1:
        return (*values, 0)
    msg = (
        f"{where}: a voxel of an image of {grid.shape_voxels[0]} slices is three numbers (x, y, z), found "
        f"{values!r:.200}; add the slice: three numbers in JSON, or a column k or axis-2 "
        f"in CSV (axis-0 is the slice there)"
    )
    raise PredictionError(msg)


def _find_index(position_mm: FloatTriple, grid: Grid, where: str) -> FloatTriple:
    if not grid.is_oriented:
        msg = f"{where}: pictures have no world coordinates, found {POSITION_KEY}; give the {VOXEL_KEY} (x, y, z)"
        raise PredictionError(msg)
    x, y, z, _ = np.linalg.solve(grid.affine, np.array([*position_mm, 1.0]))
    return float(x), float(y), float(z)


def _read_triple(values: Any, where: str) -> FloatTriple:
    try:
        x, y, z = (math.nan if isinstance(value, bool) else float(value) for value in values)
    except (TypeError, ValueError):
        x = y = z = math.nan
    if isinstance(values, str) or not all(
        math.isfinite(value) and abs(value) < LARGEST_FILE_BYTES for value in (x, y, z)
    ):
        msg = f"{where}: a position is three numbers (x, y, z), found {values!r:.200}; correct it"
        raise PredictionError(msg)
    return x, y, z


def _find_label(found: Any, labels: LabelScheme, where: str) -> int:
    """Finds an internal label by its value in label files or by its name, which 3D Slicer numbers ("liver-2")."""
    known = list_click_names(labels)
    text = "" if isinstance(found, bool) else str(found).strip()
    for name in (text, NUMBERED.sub("", text)):
        if name in known:
            return known[name]
    msg = f"{where}: no label is called {found!r}; expected one of: {', '.join(known)}"
    raise PredictionError(msg)


def list_click_names(labels: LabelScheme) -> dict[str, int]:
    """Lists what a click may say: values of label files, and names of background and of classes of one label."""
    internal = (0, *labels.foreground_labels)
    known = {str(labels.file_values[label]): label for label in internal} | {BACKGROUND_NAME: 0}
    places = {value: label for label, value in enumerate(labels.file_values)}
    single: Sequence[tuple[str, int]] = [
        (entry.name, places[entry.values[0]]) for entry in labels.classes if len(entry.values) == 1
    ]
    return known | {name: label for name, label in single if name not in known}
