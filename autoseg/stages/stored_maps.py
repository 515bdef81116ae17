"""Files of the maps that training cases get from the previous stage.

The map of a case is `NAME.previous.b2nd` (int16), with `NAME.previous.json` beside it, which says which weights
predicted it and is written last.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int16

from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import DocumentError, RunError
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.stored_array import ArrayChecksums, LazyArray, is_array_intact, open_array, write_array
from autoseg.run_folder import make_folder


class PredictionSource(Part):
    """The training that predicted a case.

    Attributes:
        configuration: The trained configuration.
        fold: The fold that held the case out.
        weights_sha256: Digest of the checkpoint file.
    """

    configuration: str
    fold: str
    weights_sha256: str


class StageMapRecord(Document):
    """Content of the JSON file beside a stored map.

    Attributes:
        source: The training that made the prediction.
        geometry: Geometry of the preprocessed case on whose grid the map lies.
        array_bytes: Size of the array's file, by which a damaged copy is recognized.
        checksums: None in files of earlier versions.
        margin_mm: Margin of the box that the map holds; None for a map that has none, and in files of earlier versions.
        minimum_mm3: Volume that a component needed to count for that box; 0: every one counted.
    """

    schema_version: Literal[1] = 1
    source: PredictionSource
    geometry: CaseGeometry
    array_bytes: int
    checksums: ArrayChecksums | None = None
    margin_mm: float | None = None
    minimum_mm3: float = 0.0


def write_stage_map(
    folder: Path,
    name: str,
    stage_map: Int16[np.ndarray, "z y x"],
    *,
    source: PredictionSource,
    geometry: CaseGeometry,
    patch_voxels: tuple[int, ...],
    margin_mm: float | None = None,
    minimum_mm3: float = 0.0,
) -> None:
    """Stores the map of a case, in place of an older one.

    Args:
        folder: Folder of the configuration that gets the map.
        name: Name of the case.
        stage_map: Map on the grid of the preprocessed case.
        source: The training that made the prediction.
        geometry: Geometry of the preprocessed case.
        patch_voxels: The extents in which it will be read.
        margin_mm: Margin of the box that the map holds, if it holds one.
        minimum_mm3: Volume that a component needed to count for that box.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    array, record = _find_paths(make_folder(folder), name)
    record.unlink(missing_ok=True)
    checksums = write_array(array, stage_map, patch_voxels)
    content = StageMapRecord(
        source=source,
        geometry=geometry,
        array_bytes=array.stat().st_size,
        checksums=checksums,
        margin_mm=margin_mm,
        minimum_mm3=minimum_mm3,
    )
    write_document(record, content, is_durable=False)


def is_stage_map_current(
    folder: Path,
    name: str,
    *,
    source: PredictionSource,
    geometry: CaseGeometry,
    margin_mm: float | None = None,
    minimum_mm3: float = 0.0,
) -> bool:
    """Returns whether the map of a case exists, is complete, and was made by these weights for this grid and box."""
    array, record = _find_paths(folder, name)
    try:
        found = read_document(record, StageMapRecord)
        box, size = (margin_mm, minimum_mm3), array.stat().st_size
        is_same_box = (found.margin_mm, found.minimum_mm3) == box
        is_wanted = (found.source, found.geometry, found.array_bytes) == (source, geometry, size)
        return is_same_box and is_wanted and is_array_intact(array, found.checksums)
    except (DocumentError, OSError):
        return False


def read_source(folder: Path, name: str) -> PredictionSource:
    """Reads which training predicted the stored map of a case.

    Raises:
        DocumentError: There is none.
    """
    return read_document(_find_paths(folder, name)[1], StageMapRecord).source


def open_stage_map(folder: Path, name: str, geometry: CaseGeometry) -> LazyArray:
    """Opens the map of a case; it is read when it is sliced.

    Args:
        folder: Folder of the configuration that gets the map.
        name: Name of the case.
        geometry: Geometry of the preprocessed case.

    Raises:
        RunError: A file is missing or damaged, or the map lies on another grid.
    """
    array, record = _find_paths(folder, name)
    try:
        found = read_document(record, StageMapRecord)
        if found.geometry != geometry or found.array_bytes != array.stat().st_size:
            msg = f"{record} describes another grid or another file"
            raise ValueError(msg)
        return open_array(array, found.checksums, remedy="autoseg train RUN")
    except (DocumentError, OSError, RuntimeError, ValueError) as error:
        msg = (
            f"the previous stage's prediction of {name!r} in {folder} is missing or damaged ({error}); "
            f"autoseg train makes it: give the command again"
        )
        raise RunError(msg) from error


def _find_paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.previous.b2nd", folder / f"{name}.previous.json"
