"""Objects of predicted images: a map of their numbers, and a table with a row for each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int32, Integer
from torch import Tensor

from autoseg.errors import PredictionError, RunError, shorten_names
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import PredictionOptions
from autoseg.labels import InstanceTargets
from autoseg.plan.document import Plan
from autoseg.postprocessing.instances import ObjectRule, build_core_maps, build_usual_rules, find_objects
from autoseg.postprocessing.object_table import ObjectRow, describe_objects, format_rows, is_described
from autoseg.preprocessing.case import CaseGeometry
from autoseg.remote.local_files import use_local
from autoseg.run_folder import write_text
from autoseg.volume_io import read_label_map, write_label_map
from autoseg.workflows.cases.references import OBJECTS_FOLDER, name_objects
from autoseg.workflows.predict.input_images import InputImage
from autoseg.workflows.select.selection_document import Selection

TABLE_NAME: Final = "objects.csv"


PredictedObjects = tuple[Integer[np.ndarray, "z y x"], Int32[np.ndarray, "z y x"], tuple[ObjectRow, ...]]
"""Classes of the objects of an image, as values of the dataset's files, their numbers (0 for none), and their rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFinder:
    """Finds the objects of images and writes them.

    Attributes:
        out: Folder of the label maps.
        rules: One for each class.
    """

    out: Path
    targets: InstanceTargets
    rules: tuple[ObjectRule, ...]

    def find_paths(self, name: str) -> tuple[Path, Path]:
        """Returns the map of numbers and the table of an image, whose label map has this name."""
        return find_objects_files(self.out, name)

    def find(
        self, case: str, model: Ensemble, logits: Sequence[Tensor], *, geometries: Sequence[CaseGeometry]
    ) -> PredictedObjects:
        """Finds the objects of an image from its logits."""
        grid = geometries[0].grid
        maps = build_core_maps(model.iterate_probabilities(logits, geometries), grid.shape_voxels, self.targets)
        found = find_objects(maps, self.rules, grid=grid)
        classes = np.where(found.numbers > 0, maps.classes, np.int16(0))
        rows = describe_objects(found, maps.probabilities, case=case, rules=self.rules, grid=grid)
        return self.targets.labels.decode(classes), found.numbers, rows

    def write(self, name: str, objects: PredictedObjects, grid: Grid) -> Integer[np.ndarray, "z y x"]:
        """Writes map and table of an image, before its label map, which is returned.

        Raises:
            VolumeError: The format cannot hold the numbers.
            RunError: A file cannot be written.
        """
        path, table = self.find_paths(name)
        label_map, numbers, rows = objects
        table.unlink(missing_ok=True)  # an old one beside the new map would seem a correction, after an interruption
        write_label_map(path, shorten_numbers(numbers), grid=grid, like=None)
        write_text(table, format_rows(rows))
        return label_map


def shorten_numbers(numbers: Int32[np.ndarray, "z y x"]) -> Integer[np.ndarray, "z y x"]:
    """Returns numbers of objects in the smaller of uint16 and int32 that holds them."""
    highest = int(numbers.max(initial=0))
    return numbers.astype(np.uint16 if highest <= np.iinfo(np.uint16).max else np.int32)


def predict_objects(
    model: SegmentationModel,
    image: InputImage,
    *,
    name: str,
    rules: Sequence[ObjectRule] | None,
    options: PredictionOptions,
) -> tuple[Any, Any, tuple[ObjectRow, ...]]:
    """Predicts classes and objects of an image; see `autoseg.predict_objects`.

    Raises:
        PredictionError: The model tells no objects apart, the rules are not of its classes, or the image does not fit.
    """
    targets = model.plan.instances
    if targets is None:
        msg = (
            "the model tells no objects apart: it was planned without --task instances; autoseg.predict_volume gives "
            "its classes"
        )
        raise PredictionError(msg)
    usual = build_usual_rules(targets.labels)
    chosen = usual if rules is None else tuple(rules)
    expected, found = ([rule.name for rule in some] for some in (usual, chosen))
    if found != expected:
        msg = f"rules: expected one for each class, {', '.join(expected)}, found {', '.join(found) or 'none'}"
        raise PredictionError(msg)
    check_rules(chosen, targets, where="rules")
    ensemble = Ensemble(members=(model,))
    cases = ensemble.preprocess(image.array, image.grid)
    logits = ensemble.predict_case(cases, options=options)
    finder = ObjectFinder(out=Path(), targets=targets, rules=chosen)
    classes, numbers, rows = finder.find(name, ensemble, logits, geometries=[case.geometry for case in cases])
    return image.convert_result(classes), image.convert_result(shorten_numbers(numbers)), rows


def predict_classes(
    model: SegmentationModel, image: InputImage, *, options: PredictionOptions
) -> Integer[np.ndarray, "z y x"]:
    """Predicts the label map of an image as `autoseg predict` writes it; of objects, by the usual rules.

    Raises:
        PredictionError: The image does not fit the model.
    """
    targets = model.plan.instances
    if targets is None:
        return model.predict_volume(image.array, image.grid, options=options)
    case = model.preprocess(image.array, image.grid)
    parts = model.iterate_probabilities(model.predict_case(case, options=options), case.geometry)
    return targets.labels.decode(build_core_maps(parts, image.grid.shape_voxels, targets).classes)


def build_object_finder(
    plan: Plan, selection: Selection | None, out: Path, *, formats: Sequence[str]
) -> ObjectFinder | None:
    """Builds what finds objects, by the rules of the selection if there is one; None where they are not told apart.

    Raises:
        PredictionError: Results in DICOM are wanted, too, or a rule needs what the model does not learn.
    """
    if plan.instances is None:
        return None
    if formats:
        msg = (
            f"objects are written as maps of numbers and not in DICOM ({', '.join(formats)}); leave out --format, and "
            f"find them in {out / OBJECTS_FOLDER}"
        )
        raise PredictionError(msg)
    learned = None if selection is None else selection.objects
    rules = build_usual_rules(plan.instances.labels) if learned is None else learned.rules
    check_rules(rules, plan.instances, where="objects.rules of selection.json")
    return ObjectFinder(out=out, targets=plan.instances, rules=rules)


def check_rules(rules: Sequence[ObjectRule], targets: InstanceTargets, *, where: str) -> None:
    """Checks that a model learns what rules need.

    Raises:
        PredictionError: It does not.
    """
    for rule in rules:
        if rule.seeds == "centres" and not targets.centre_steps:
            msg = (
                f"{where}: expected seeds of {rule.name} from cores, found centres: the model was planned without "
                f"--targets centre_distance; select again, or set seeds to cores"
            )
            raise PredictionError(msg)


def find_objects_files(out: Path, name: str) -> tuple[Path, Path]:
    """Returns the map of numbers and the table that belong to a label map of this name in a folder."""
    folder = out / OBJECTS_FOLDER
    return folder / name_objects(name), folder / f"{name}.csv"


def check_objects_unchanged(out: Path, names: Iterable[str]) -> None:
    """Checks that no map of numbers that is to be replaced or removed was changed since, such as a corrected one.

    One was if its objects are not those of its table.

    Args:
        out: Folder of the label maps.
        names: Names of the label maps.

    Raises:
        RunError: Some were changed.
        VolumeError: A map cannot be read.
    """
    changed = []
    for name in sorted(names):
        path, table = find_objects_files(out, name)
        if path.is_file() and table.is_file():
            with use_local(path, table):
                is_same = is_described(read_label_map(path).array, table.read_text(encoding="utf-8"))
            changed += [] if is_same else [path.name]
    if changed:
        msg = (
            f"{out / OBJECTS_FOLDER} holds maps of numbers that would be replaced although they were changed since "
            f"they were predicted: {shorten_names(changed)}; move them away, or choose another folder"
        )
        raise RunError(msg)


def remove_old_objects(out: Path, *, removed: Iterable[str]) -> None:
    """Removes maps and tables of label maps that were removed, by the names of these."""
    for name in removed:
        for path in find_objects_files(out, name):
            path.unlink(missing_ok=True)


def merge_tables(out: Path, names: Iterable[str]) -> None:
    """Writes the rows of all label maps of these names in a folder into one table.

    Raises:
        RunError: The file cannot be written.
    """
    tables = [table for _, table in (find_objects_files(out, name) for name in sorted(names)) if table.is_file()]
    if tables:
        parts = [path.read_text(encoding="utf-8").split("\n", 1) for path in tables]
        write_text(out / TABLE_NAME, f"{parts[0][0]}\n{''.join(rows for _, rows in parts)}")
