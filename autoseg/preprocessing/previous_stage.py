"""What the second stage of a cascade gets of the first: a label map on its own grid, as one mask per label.

For training, the label maps of all cases are predicted beforehand and stored as `NAME.previous.b2nd` (int16) with
`NAME.previous.json`, which tells which weights predicted it, and is written last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int16

from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import DocumentError, RunError
from autoseg.preprocessing.cache import CachedCase, LazyArray, open_array, open_case, write_array
from autoseg.preprocessing.case import CaseGeometry
from autoseg.run_folder import make_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousStage:
    """The stored predictions that a training needs.

    Attributes:
        folder: Of the predictions.
        foreground_labels: One mask each, in this order.
        digest: Of the weights that predicted: another digest means other input.
    """

    folder: Path
    foreground_labels: tuple[int, ...]
    digest: str


class PredictionSource(Part):
    """The training that predicted a case.

    Attributes:
        configuration: The previous stage.
        fold: Which held the case out.
        weights_sha256: Of the checkpoint's file.
    """

    configuration: str
    fold: str
    weights_sha256: str


class PreviousPrediction(Document):
    """What the JSON file beside a stored prediction holds.

    Attributes:
        geometry: Of the preprocessed case on whose grid the prediction lies.
        array_bytes: By which a damaged copy is recognized.
    """

    schema_version: Literal[1] = 1
    source: PredictionSource
    geometry: CaseGeometry
    array_bytes: int


def write_prediction(
    folder: Path,
    name: str,
    label_map: Int16[np.ndarray, "z y x"],
    *,
    source: PredictionSource,
    geometry: CaseGeometry,
    patch_voxels: tuple[int, ...],
) -> None:
    """Stores what the previous stage predicts for a case, in place of an older prediction.

    Args:
        folder: Of the configuration that will read it.
        name: Of the case.
        label_map: Internal labels on the grid of the preprocessed case.
        source: Who predicted it.
        geometry: Of the preprocessed case.
        patch_voxels: The extents in which it will be read.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    array, record = _find_paths(make_folder(folder), name)
    record.unlink(missing_ok=True)
    write_array(array, label_map, patch_voxels)
    content = PreviousPrediction(source=source, geometry=geometry, array_bytes=array.stat().st_size)
    write_document(record, content, is_lasting=False)


def is_prediction_current(folder: Path, name: str, *, source: PredictionSource, geometry: CaseGeometry) -> bool:
    """Whether the prediction of a case is there, whole, made by these weights and for this grid."""
    array, record = _find_paths(folder, name)
    try:
        found = read_document(record, PreviousPrediction)
        return found == PreviousPrediction(source=source, geometry=geometry, array_bytes=array.stat().st_size)
    except (DocumentError, OSError):
        return False


def read_source(folder: Path, name: str) -> PredictionSource:
    """The training that made the stored prediction of a case.

    Raises:
        DocumentError: There is none.
    """
    return read_document(_find_paths(folder, name)[1], PreviousPrediction).source


def open_case_with_prediction(data_folder: Path, folder: Path, name: str) -> CachedCase:
    """Opens a preprocessed case together with what the previous stage predicts for it.

    Args:
        data_folder: Of the preprocessed cases.
        folder: Of the predictions.
        name: Of the case.

    Raises:
        RunError: A file is missing or damaged, or the prediction lies on another grid.
    """
    case = open_case(data_folder, name)
    array, record = _find_paths(folder, name)
    try:
        found = read_document(record, PreviousPrediction)
        if found.geometry != case.geometry or found.array_bytes != array.stat().st_size:
            msg = f"{record} describes another grid or another file"
            raise ValueError(msg)
        return replace(case, previous_label_map=open_array(array, remedy="autoseg train RUN"))
    except (DocumentError, OSError, RuntimeError, ValueError) as error:
        msg = (
            f"the previous stage's prediction of {name!r} in {folder} is missing or damaged ({error}); "
            f"autoseg train makes it: give the command again"
        )
        raise RunError(msg) from error


def read_network_input(case: CachedCase, foreground_labels: Sequence[int]) -> Float32[np.ndarray, "channel z y x"]:
    """The whole image of a case, with masks where there is a previous stage."""
    image: Float32[np.ndarray, "channel z y x"] = case.image[:]
    if case.previous_label_map is None:
        return image
    return append_masks(image, encode_masks(_read(case.previous_label_map), foreground_labels))


def encode_masks(
    label_map: Int16[np.ndarray, "*space"], foreground_labels: Sequence[int]
) -> Bool[np.ndarray, " label *space"]:
    """One mask for each label; what is background, or outside, is in none."""
    return np.stack([label_map == label for label in foreground_labels])


def append_masks(
    image: Float32[np.ndarray, " channel *space"], masks: Bool[np.ndarray, " label *space"]
) -> Float32[np.ndarray, " channel_and_label *space"]:
    """The image with the masks as further channels, 0 and 1."""
    return np.concatenate([image, masks], dtype=np.float32)


def _read(array: LazyArray) -> Int16[np.ndarray, "z y x"]:
    label_map: Int16[np.ndarray, "z y x"] = array[:]
    return label_map


def _find_paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.previous.b2nd", folder / f"{name}.previous.json"
