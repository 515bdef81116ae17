"""Boxes of predicted images: what first stages found, and where the next ones predicted, a row of a table for each."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from autoseg.document import Part
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble
from autoseg.plan.stages import BoxOfPreviousStage
from autoseg.run_folder import make_folder, write_text
from autoseg.stages.staged_case import FoundBox, StagedCase

BOXES_FOLDER: Final = "boxes"
BOXES_NAME: Final = "boxes.csv"


class BoxRow(Part):
    """A box in an image. Positions are indices of voxels of the image file, the first of which is 0.

    Attributes:
        case: Name of the image.
        configuration: The stage that finds it, or that predicts in it.
        class_name: Class that is found; empty for the box in which a stage predicts.
        score: Highest probability of the class in the box; empty where there is none.
        lower_x_mm: Distance of the near face from the outer face of the first voxel of the file, along its axis x; so
            for the other axes.
        upper_x_mm: Distance of the far face.
    """

    case: str
    configuration: str
    class_name: str | None
    score: float | None
    first_x: int
    first_y: int
    first_z: int
    last_x: int
    last_y: int
    last_z: int
    lower_x_mm: float
    lower_y_mm: float
    lower_z_mm: float
    upper_x_mm: float
    upper_y_mm: float
    upper_z_mm: float


def finds_boxes(model: Ensemble) -> bool:
    """Returns whether a stage of a model predicts in a box."""
    return any(isinstance(stage.configuration_plan.previous_stage, BoxOfPreviousStage) for stage in model.stages)


def find_boxes_file(out: Path, name: str) -> Path:
    """Returns the table of boxes that belongs to a label map of this name in a folder."""
    return out / BOXES_FOLDER / f"{name}.csv"


def write_boxes(out: Path, name: str, *, case: str, members: Sequence[StagedCase], grid: Grid) -> None:
    """Writes the table of an image, before its label map.

    Args:
        out: Folder of the label maps.
        name: Name of the label map.
        case: Name of the image.
        members: The image as each member of an ensemble got it; what two of them found alike stands once.
        grid: Grid of the image.

    Raises:
        RunError: The file cannot be written.
    """
    rows = dict.fromkeys(_describe(case, box, grid) for member in members for box in member.list_boxes())
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(BoxRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    path = find_boxes_file(out, name)
    make_folder(path.parent)
    write_text(path, text.getvalue())


def _describe(case: str, found: FoundBox, grid: Grid) -> BoxRow:
    axes = list(zip("zyx", found.box, grid.spacing_mm, strict=True))
    return BoxRow.model_validate(
        {
            "case": case,
            **found.model_dump(include={"configuration", "class_name", "score"}),
            **{f"first_{axis}": first for axis, (first, _), _ in axes},
            **{f"last_{axis}": end - 1 for axis, (_, end), _ in axes},
            **{f"lower_{axis}_mm": round(first * mm, 4) for axis, (first, _), mm in axes},
            **{f"upper_{axis}_mm": round(end * mm, 4) for axis, (_, end), mm in axes},
        }
    )


def remove_old_boxes(out: Path, *, removed: Iterable[str]) -> None:
    """Removes the tables of label maps that were removed, by the names of these."""
    for name in removed:
        find_boxes_file(out, name).unlink(missing_ok=True)


def merge_boxes(out: Path, names: Iterable[str]) -> None:
    """Writes the rows of all label maps of these names in a folder into one table; none where there are no boxes.

    Raises:
        RunError: The file cannot be written.
    """
    if not (out / BOXES_FOLDER).is_dir():
        return
    tables = [table for table in (find_boxes_file(out, name) for name in sorted(names)) if table.is_file()]
    parts = [path.read_text(encoding="utf-8").split("\n", 1) for path in tables]
    if not parts:
        (out / BOXES_NAME).unlink(missing_ok=True)
        return
    write_text(out / BOXES_NAME, f"{parts[0][0]}\n{''.join(rows for _, rows in parts)}")
