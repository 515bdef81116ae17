"""Objects that are told apart, as a report shows them: counted in predictions, and drawn apart."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer

from autoseg.errors import PredictionError
from autoseg.fingerprint import Fingerprint
from autoseg.labels import InstanceTargets
from autoseg.postprocessing.object_table import is_described
from autoseg.volume_io import LabelVolume, read_label_map
from autoseg.workflows.predict.objects import find_objects_files

CHANGED = "the map of its objects is not that of its table: it was changed since it was predicted"
MISSING_TABLE = "there is no table of its objects"
TABLE_PROBLEMS = (CHANGED, MISSING_TABLE)


def read_numbers(label_map: Path, stored: LabelVolume) -> Integer[np.ndarray, "z y x"]:
    """Reads the numbers of the objects that belong to a predicted label map.

    Raises:
        PredictionError: They are missing, or not on its grid.
        VolumeError: They cannot be read.
    """
    path, _ = find_objects_files(label_map.parent, label_map.name)
    if not path.is_file():
        msg = (
            f"{path}: expected the numbers of the objects of {label_map.name}, found none; name the OUT of a "
            f"prediction by this run, with everything in it"
        )
        raise PredictionError(msg)
    numbers = read_label_map(path)
    if numbers.array.shape != stored.array.shape:
        msg = (
            f"{path}: expected the grid of its label map ({stored.grid.describe()}), found {numbers.grid.describe()}; "
            f"predict the image again with --overwrite"
        )
        raise PredictionError(msg)
    return numbers.array


def find_table_problem(label_map: Path, numbers: Integer[np.ndarray, "z y x"]) -> str | None:
    """Finds why the table of an image does not describe its objects; None if it does."""
    _, table = find_objects_files(label_map.parent, label_map.name)
    if not table.is_file():
        return MISSING_TABLE
    return None if is_described(numbers, table.read_text(encoding="utf-8")) else CHANGED


def count_objects(
    label_map: Integer[np.ndarray, "z y x"], numbers: Integer[np.ndarray, "z y x"], targets: InstanceTargets
) -> dict[str, int]:
    """Counts the objects of every class by name.

    Args:
        label_map: Classes of the objects, as labels of the dataset.
        numbers: Numbers of the objects.
        targets: Labels of the run.
    """
    labels = targets.labels.foreground_labels
    found = (np.unique(numbers[label_map == label]) for label in labels)
    return {name: int((own != 0).sum()) for name, own in zip(targets.labels.class_names, found, strict=True)}


def separate_objects(
    label_map: Integer[np.ndarray, "z y x"], numbers: Integer[np.ndarray, "z y x"]
) -> Integer[np.ndarray, "z y x"]:
    """Returns classes with a gap of a voxel where two objects touch; an object that would vanish is kept whole."""
    shown = np.array(label_map)
    for axis in range(3):
        before, after = (np.moveaxis(numbers, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        touches = (before != after) & (before != 0) & (after != 0)
        np.moveaxis(shown, axis, 0)[1:][touches] = 0
    lost = np.setdiff1d(numbers[label_map > 0], numbers[shown > 0])
    return np.where(np.isin(numbers, lost[lost != 0]), label_map, shown)


def join_classes(fingerprint: Fingerprint, targets: InstanceTargets) -> Fingerprint:
    """Returns measurements of the classes of the dataset: the parts of each are one again."""
    count = targets.class_count
    cases = [
        case.model_copy(update={"voxel_counts": tuple(sum(case.voxel_counts[index::count]) for index in range(count))})
        for case in fingerprint.cases
    ]
    return fingerprint.model_copy(update={"labels": targets.labels, "cases": tuple(cases)})
