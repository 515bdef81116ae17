"""Maps of values from 0 to 1 that a prediction writes in a folder beside the label maps, several for each case."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from autoseg.errors import PredictionError
from autoseg.geometry import Grid
from autoseg.volume_io import write_label_map

MAP_ENDING: Final = ".nii.gz"
Maps = Mapping[Path, UInt8[np.ndarray, "file_z file_y file_x"] | None]
"""Maps by file, in the order in which they are written; None for one that would say nothing of a case."""


def write_maps(maps: Maps, grid: Grid) -> None:
    """Writes maps in steps of 1 / 255 on the grid of the image; removes those of earlier versions that are left out.

    Raises:
        VolumeError: NIfTI cannot hold the grid.
        RunError: A file cannot be written.
    """
    for path, values in maps.items():
        if values is None:
            path.unlink(missing_ok=True)
        else:
            write_label_map(path, values, grid=grid, like=None)


def remove_old_maps(folder: Path, *, removed: Collection[str], kept: Collection[str]) -> None:
    """Removes the maps of some cases in a folder; those of other cases, and files of no known case, are kept."""
    known = {*removed, *kept}
    for path in folder.glob(f"*{MAP_ENDING}"):
        if _find_case(path.name, known) in removed:
            path.unlink()


def _find_case(name: str, cases: Collection[str]) -> str | None:
    """Finds the case whose name is followed by the title of a map, the longest one; None if there is none."""
    words = name.split("_")
    beginnings = ("_".join(words[:count]) for count in range(len(words) - 1, 0, -1))
    return next((beginning for beginning in beginnings if beginning in cases), None)


def check_no_maps(folder: Path, *, kind: str, flag: str) -> None:
    """Checks that there are no maps of an earlier prediction, which would not be those of new label maps.

    Args:
        folder: Folder of the maps.
        kind: Kind of the maps in words.
        flag: Flag that makes them.

    Raises:
        PredictionError: The folder exists.
    """
    if folder.exists():
        msg = (
            f"{folder} holds the {kind} of an earlier prediction, which label maps of this one would not belong to; "
            f"predict with {flag}, move the folder away, or choose another folder"
        )
        raise PredictionError(msg)
