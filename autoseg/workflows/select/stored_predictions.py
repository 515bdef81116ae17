"""Label maps of held-out cases that `autoseg select` predicts, each with a record of the weights that made it.

An interrupted call continues, and a training that was repeated makes exactly its cases anew.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Integer

from autoseg.document import Document, read_document, write_document
from autoseg.errors import DocumentError
from autoseg.file_endings import label_map_ending
from autoseg.geometry import Grid
from autoseg.run_folder import RunFolder
from autoseg.stages.stored_maps import PredictionSource
from autoseg.volume_io import write_label_map
from autoseg.workflows.cases.network_features import find_sources
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.select.held_out import HeldOut


class PredictionSources(Document):
    """Content of the JSON file beside a label map.

    Attributes:
        sources: The trainings that predicted; that of a stored input from a previous stage comes before.
    """

    schema_version: Literal[1] = 1
    sources: tuple[PredictionSource, ...]


def find_label_map(folder: Path, members: Sequence[HeldOut], case: str) -> Path:
    """Returns the path of the prediction of a case."""
    return folder / f"{case}{label_map_ending(members[0].plan.file_ending)}"


def is_current(run: RunFolder, folder: Path, members: Sequence[HeldOut], case: str) -> bool:
    """Returns whether there is a prediction by the present weights."""
    if not find_label_map(folder, members, case).is_file():
        return False
    try:
        found = read_document(_find_record(folder, case), PredictionSources)
    except DocumentError:
        return False
    return found.sources == list_sources(run, members, case)


def write_prediction(
    run: RunFolder,
    folder: Path,
    members: Sequence[HeldOut],
    case: str,
    *,
    label_map: Integer[np.ndarray, "z y x"],
    grid: Grid,
) -> None:
    """Writes a label map, then its record.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    record = _find_record(folder, case)
    record.unlink(missing_ok=True)
    path = find_label_map(folder, members, case)
    write_label_map(path, label_map, grid=grid, like=find_reference(run, case))
    write_document(record, PredictionSources(sources=list_sources(run, members, case)), is_durable=False)


def _find_record(folder: Path, case: str) -> Path:
    """Finds the record beside the label map. (`CASE.json` may be the spacing of a TIFF file.)"""
    return folder / f"{case}.source.json"


def list_sources(run: RunFolder, members: Sequence[HeldOut], case: str) -> tuple[PredictionSource, ...]:
    """Lists the trainings whose weights predict a held-out case, of one member after the other."""
    return tuple(
        source
        for member in members
        for source in find_sources(run, member.plan, member.configuration, member.holders[case], case=case)
    )
