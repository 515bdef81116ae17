"""Reads predicted label maps with what is known of them, those that a person should look at first in front."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer

from autoseg.document import read_document
from autoseg.errors import PredictionError
from autoseg.file_endings import HEADER_OF_VOXELS, find_ending, strip_ending
from autoseg.fingerprint import Fingerprint
from autoseg.labels import LabelScheme
from autoseg.plan import Plan
from autoseg.quality.distribution import PRESENT_FRACTION
from autoseg.quality.estimates import CaseQuality
from autoseg.quality.regression import FROM_MAD
from autoseg.quality.shown_units import VOLUME_UNITS
from autoseg.report.blocks import Bounded
from autoseg.volume_io import LabelVolume, read_label_map
from autoseg.volume_io.dicom import RESULT_ENDINGS, DicomSeries, find_series
from autoseg.workflows.predict.prediction_folder import DICOM_SOURCE, RECORD_NAME, PredictionRecord
from autoseg.workflows.predict.quality import read_quality
from autoseg.workflows.report.dataset import compute_class_volumes, measure_voxel_ml
from autoseg.workflows.report.objects import (
    TABLE_PROBLEMS,
    count_objects,
    find_table_problem,
    join_classes,
    read_numbers,
)

FEWEST_TRAINING_CASES: Final = 5  # with fewer, the usual volume of a class is not known
UNUSUAL_DEVIATIONS: Final = 3.0  # a guess: beyond, one volume in 400 of a normal distribution
SMALLEST_DEVIATION: Final = 0.05  # of the logarithm: differences of 5 % are nothing to look at, however equal the rest
NOT_COMPARED: Final = "not compared"
NO_QUALITY: Final = "no Dice is estimated: the folder holds no quality.json, which autoseg predict writes"

Usual = Mapping[str, tuple[float, float, float, float]]
"""Smallest, median and largest volume of every class in the training cases, and the spread of its logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedCase:
    """A predicted label map.

    Attributes:
        path: The label map.
        image: The image, if it is known: its file, or its series of DICOM slices.
        volumes_ml: Volume of every class by name, in ml (thousands of voxels without spacing).
        unit: The unit of the volumes in words.
        urgency: A key that sorts cases, those that a person should look at first in front: by the largest deviation
            from the training cases, then by the expected Dice.
        concerns: Everything unusual, in words.
        is_compared: Whether it was compared with the training cases, so that the absence of concerns means something.
        objects: Number of objects of every class by name; empty where they are not told apart.
        quality: Estimated quality; None if quality.json does not tell.
    """

    name: str
    path: Path
    image: Path | DicomSeries | None
    volumes_ml: Mapping[str, float]
    unit: str
    urgency: tuple[float, float]
    concerns: tuple[str, ...]
    is_compared: bool
    objects: Mapping[str, int] = field(default_factory=dict)
    quality: CaseQuality | None = None

    @property
    def key(self) -> str:
        """Returns a name that no training case has: file names have no slash."""
        return f"predictions/{self.path.name}"

    @property
    def note(self) -> str:
        """Returns a word on why a person should look at it; empty for most."""
        return "unusual" if self.concerns else ""

    @property
    def details(self) -> list[tuple[str, str]]:
        """Returns what a page says of it."""
        counts = [(f"{name}, objects", _format(self.find_count(name), "d")) for name in self.objects]
        volumes = [(name, f"{_format(self.find_volume(name), '.2f')} {self.unit}") for name in self.volumes_ml]
        unusual = [("unusual", concern) for concern in self.concerns]
        compared = [] if self.is_compared else [("training cases", NOT_COMPARED)]
        return [*counts, *volumes, *self._list_estimates(), *unusual, *compared]

    def find_count(self, name: str) -> int | Bounded:
        """Finds the number of objects of a class, with the interval of 90 % of the true one where that is known."""
        count = self.objects[name]
        known = None if self.quality is None or self.quality.objects is None else self.quality.objects.get(name)
        estimate = None if known is None else known.count
        if estimate is None or estimate.low is None or estimate.high is None or estimate.value != count:
            return count
        return Bounded(count, estimate.low, estimate.high)

    def find_volume(self, name: str) -> float | Bounded:
        """Finds the volume of a class, with the interval of 90 % of the true one where that is calibrated."""
        volume = self.volumes_ml[name]
        known = None if self.quality is None else self.quality.classes.get(name)
        estimate = None if known is None else known.volume
        if estimate is None or estimate.low is None or estimate.high is None or estimate.value == 0:
            return volume
        return Bounded(volume, volume * estimate.low / estimate.value, volume * estimate.high / estimate.value)

    def find_dice(self, name: str) -> Bounded | None:
        """Finds the expected Dice of a class of the network with its interval of 90 %; None if there is none."""
        known = None if self.quality is None else self.quality.classes.get(name)
        found = None if known is None else known.dice
        return None if found is None else Bounded(found.value, found.low, found.high)

    @property
    def plausibility(self) -> float | None:
        """Returns how well the label autoencoders reconstruct it; None where there is none."""
        return None if self.quality is None else self.quality.plausibility

    def _list_estimates(self) -> Iterator[tuple[str, str]]:
        """Yields the expected scores of every class that has some, with their intervals, and the plausibility."""
        classes = {} if self.quality is None else self.quality.classes
        for name, entry in classes.items():
            for title, found in (("Dice", entry.dice), ("NSD", entry.nsd)):
                if found is not None:
                    yield f"{name}, expected {title}", Bounded(found.value, found.low, found.high).format(".3f")
        of_objects = (None if self.quality is None else self.quality.objects) or {}
        for name, own in of_objects.items():
            for title, found in (("F1", own.f1), ("PQ", own.pq)):
                if found is not None:
                    text = Bounded(found.value, found.low, found.high).format(".3f")
                    yield f"{name}, expected {title} of objects", text
        if self.plausibility is not None:
            yield "plausibility", f"{self.plausibility:.3f}"


def _format(value: int | float | Bounded, kind: str) -> str:
    return value.format(kind) if isinstance(value, Bounded) else format(value, kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedFolder:
    """The predicted label maps of a folder.

    Attributes:
        cases: Those that a person should look at first in front.
        basis: Sentence about the basis of the estimates of quality, or the reason for their lack.
        rules: Rules by which objects were found, in words.
    """

    cases: tuple[PredictedCase, ...]
    basis: str
    rules: tuple[str, ...]

    @property
    def compared(self) -> tuple[PredictedCase, ...]:
        """Returns the cases that were compared with the training cases."""
        return tuple(case for case in self.cases if case.is_compared)

    @property
    def lacks_images(self) -> bool:
        """Returns whether no image of the predictions is known."""
        return all(case.image is None for case in self.cases)


def read_predictions(
    folder: Path, plan: Plan, fingerprint: Fingerprint | None, *, image_folder: Path | None = None
) -> PredictedFolder:
    """Reads all label maps of a folder; those that are least like the training cases come first.

    Where the folder has estimates of quality, their flags and expected Dice say so, else the volumes.

    Args:
        folder: The label maps.
        plan: Plan of the run that predicted them.
        fingerprint: Measurements of the training cases; None if there are none.
        image_folder: Folder of the images, where it is not the one that the record of the predictions names; below it
            are the series of predictions of DICOM.

    Raises:
        PredictionError: There is none, one holds values that the plan does not know, or its objects are missing.
        VolumeError: One cannot be read.
    """
    path = folder / RECORD_NAME
    record = read_document(path, PredictionRecord) if path.is_file() else None
    images = {} if record is None else _find_images(record, image_folder)
    usual = {} if fingerprint is None else find_usual_volumes(fingerprint, plan)
    report = read_quality(folder)
    qualities = {} if report is None else {case.label_map: case for case in report.cases}
    cases = [
        _add_quality(
            _read(path, images.get(path.name), plan, usual),
            qualities.get(path.name),
            has_flags=report is not None and report.is_compared,
        )
        for path in _list_label_maps(folder)
    ]
    return PredictedFolder(
        cases=tuple(sorted(cases, key=lambda case: (*case.urgency, case.name))),
        basis=NO_QUALITY if report is None else report.calibration,
        rules=() if record is None else tuple(rule.describe() for rule in record.objects),
    )


def _add_quality(case: PredictedCase, quality: CaseQuality | None, *, has_flags: bool) -> PredictedCase:
    """Adds estimates to a case; flags replace the comparison of volumes, which is one of them."""
    if quality is None:
        return case
    if not has_flags:
        return replace(case, quality=quality, urgency=(case.urgency[0], quality.urgency[1]))
    others = tuple(concern for concern in case.concerns if concern in TABLE_PROBLEMS)
    concerns = (*(flag.text for flag in quality.flags), *others)
    unusual = min(quality.urgency[0], -np.inf if others else 0.0)
    return replace(case, quality=quality, urgency=(unusual, quality.urgency[1]), concerns=concerns, is_compared=True)


def find_usual_volumes(fingerprint: Fingerprint, plan: Plan) -> dict[str, tuple[float, float, float, float]]:
    """Finds smallest, median and largest volume of every class in the training cases, and the spread of its logarithm.

    Classes that few cases hold have no usual volume. The smallest is 0 for those that some cases lack.
    """
    usual = {}
    if plan.instances is not None:
        fingerprint = join_classes(fingerprint, plan.instances)
    for name, volumes in compute_class_volumes(fingerprint).items():
        if len(volumes) >= FEWEST_TRAINING_CASES:
            logarithms = np.log(volumes)
            spread = FROM_MAD * float(np.median(np.abs(logarithms - np.median(logarithms))))
            is_always_there = len(volumes) >= PRESENT_FRACTION * len(fingerprint.cases)
            smallest = min(volumes) if is_always_there else 0.0
            usual[name] = (smallest, float(np.median(volumes)), max(volumes), max(spread, SMALLEST_DEVIATION))
    return usual


def find_concerns(volumes_ml: Mapping[str, float], usual: Usual, *, unit: str = "ml") -> tuple[float, tuple[str, ...]]:
    """Compares volumes with the usual ones; returns the largest deviation, and what is unusual in words."""
    largest, concerns = 0.0, []
    for name, volume in volumes_ml.items():
        if name not in usual:
            continue
        smallest, median, most, spread = usual[name]
        if volume == 0:
            if smallest > 0:
                largest = np.inf
                concerns.append(f"{name} is missing, which almost every training case has")
            continue
        deviation = abs(float(np.log(volume / median))) / spread
        largest = max(largest, deviation)
        if deviation > UNUSUAL_DEVIATIONS:
            concerns.append(f"{name} {volume:.3g} {unit}, in training {smallest:.3g} to {most:.3g} {unit}")
    return largest, tuple(concerns)


def _list_label_maps(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in paths if path.is_file() and _is_label_map(path)]
    if not found:
        msg = f"expected a folder of predicted label maps, found none in {folder}; name the OUT of autoseg predict"
        raise PredictionError(msg)
    return found


def _is_label_map(path: Path) -> bool:
    """Returns whether a file is a label map, and not the voxels of one whose header stands beside it."""
    ending = find_ending(path.name)
    if ending is None or path.name.lower().endswith(RESULT_ENDINGS):
        return False
    header = HEADER_OF_VOXELS.get(ending)
    return header is None or not path.with_name(f"{strip_ending(path.name)}{header}").is_file()


def _find_images(record: PredictionRecord, image_folder: Path | None) -> Mapping[str, Path | DicomSeries]:
    if record.images != DICOM_SOURCE:
        root = image_folder or Path(record.images)
        return {name: root / image for name, image in record.outputs.items()}
    if image_folder is None:  # UIDs lead to no file
        return {}
    series = {one.uid: one for one in find_series(image_folder).series}
    return {name: series[uid] for name, uid in record.outputs.items() if uid in series}


def _read(path: Path, image: Path | DicomSeries | None, plan: Plan, usual: Usual) -> PredictedCase:
    labels, unit = plan.dataset_labels, VOLUME_UNITS[plan.distance_unit]
    stored = read_label_map(path)
    unknown = labels.find_unknown_values(stored.array)
    if unknown:
        msg = (
            f"{path}: expected the values {', '.join(map(str, labels.file_values))} of the run's classes, found "
            f"{unknown[0]}; name the OUT of a prediction by this run"
        )
        raise PredictionError(msg)
    encoded = labels.encode(stored.array)
    volumes_ml = _measure_classes(stored, encoded, labels)
    urgency, concerns = find_concerns(volumes_ml, usual, unit=unit)
    objects, problem = {}, None
    if plan.instances is not None:
        numbers = read_numbers(path, stored)
        objects, problem = count_objects(encoded, numbers, plan.instances), find_table_problem(path, numbers)
    return PredictedCase(
        name=strip_ending(path.name),
        path=path,
        image=image,
        volumes_ml=volumes_ml,
        unit=unit,
        urgency=(-urgency if problem is None else -np.inf, 1.0),
        concerns=concerns if problem is None else (*concerns, problem),
        is_compared=bool(usual),
        objects=objects,
    )


def _measure_classes(
    stored: LabelVolume, encoded: Integer[np.ndarray, "z y x"], labels: LabelScheme
) -> dict[str, float]:
    counts = np.bincount(encoded.ravel(), minlength=len(labels.file_values))
    grid = stored.grid
    voxel_ml = measure_voxel_ml(grid.spacing_mm, grid.shape_voxels, tells_spacing=grid.tells_spacing)
    return {
        name: float(counts[list(members)].sum()) * voxel_ml
        for name, members in zip(labels.class_names, labels.class_labels, strict=True)
    }
