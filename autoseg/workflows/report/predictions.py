"""The section about predictions of new images, those that a person should look at first on top."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from autoseg.document import read_document
from autoseg.errors import PredictionError
from autoseg.file_endings import HEADER_OF_VOXELS, find_ending, strip_ending
from autoseg.fingerprint import Fingerprint
from autoseg.labels import LabelScheme
from autoseg.plan import Plan
from autoseg.processes.progress import Progress
from autoseg.quality.estimates import CaseQuality
from autoseg.report.blocks import Cell, Gallery, Section, Table
from autoseg.report.page import ShownCase
from autoseg.report.volumes import CaseVolumes
from autoseg.volume_io import LabelVolume, read_label_map
from autoseg.volume_io.dicom import RESULT_ENDINGS, DicomSeries, find_series, read_stack, stack_slices
from autoseg.workflows.predict.prediction_folder import DICOM_SOURCE, RECORD_NAME, PredictionRecord
from autoseg.workflows.predict.quality import read_quality
from autoseg.workflows.report.cases import PREDICTION, add_views, build_volumes, join_image
from autoseg.workflows.report.dataset import compute_class_volumes, measure_voxel_ml

FEWEST_TRAINING_CASES: Final = 5  # with fewer, the usual volume of a class is not known
UNUSUAL_DEVIATIONS: Final = 3.0  # a guess: beyond, one volume in 400 of a normal distribution
SMALLEST_DEVIATION: Final = 0.05  # of the logarithm: differences of 5 % are nothing to look at, however equal the rest
PRESENT_FRACTION: Final = 0.95
MOST_THUMBNAILS: Final = 24
FROM_MAD: Final = 1.4826  # the standard deviation of a normal distribution whose median absolute deviation is 1


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
        quality: Estimated quality; None if quality.json does not tell.
    """

    name: str
    path: Path
    image: Path | DicomSeries | None
    volumes_ml: Mapping[str, float]
    unit: str
    urgency: tuple[float, float]
    concerns: tuple[str, ...]
    quality: CaseQuality | None = None

    @property
    def key(self) -> str:
        """Returns a name that no training case has: file names have no slash."""
        return f"predictions/{self.path.name}"

    @property
    def details(self) -> list[tuple[str, str]]:
        """Returns what a page says of it."""
        volumes = [(name, f"{volume:.2f} {self.unit}") for name, volume in self.volumes_ml.items()]
        estimates = [] if self.quality is None else list(_list_estimates(self.quality))
        return [*volumes, *estimates, *(("unusual", concern) for concern in self.concerns)]


def read_predictions(
    folder: Path, plan: Plan, fingerprint: Fingerprint | None, *, image_folder: Path | None = None
) -> tuple[PredictedCase, ...]:
    """Reads all label maps of a folder; those that are least like the training cases come first.

    Where the folder has estimates of quality, their flags and expected Dice say so, else the volumes.

    Args:
        folder: The label maps.
        plan: Plan of the run that predicted them.
        fingerprint: Measurements of the training cases; None if there are none.
        image_folder: Folder of the images, where it is not the one that the record of the predictions names; below it
            are the series of predictions of DICOM.

    Raises:
        PredictionError: There is none, or one holds values that the plan does not know.
        VolumeError: One cannot be read.
    """
    images = _find_images(folder, image_folder)
    usual = {} if fingerprint is None else find_usual_volumes(fingerprint)
    unit = find_volume_unit(plan)
    qualities = {case.label_map: case for case in read_quality(folder)}
    cases = [
        _add_quality(
            _read(path, images.get(path.name), plan.labels, usual, unit=unit),
            qualities.get(path.name),
        )
        for path in _list_label_maps(folder)
    ]
    return tuple(sorted(cases, key=lambda case: (*case.urgency, case.name)))


def _add_quality(case: PredictedCase, quality: CaseQuality | None) -> PredictedCase:
    if quality is None:
        return case
    concerns = tuple(flag.text for flag in quality.flags)
    return replace(case, quality=quality, urgency=quality.urgency, concerns=concerns)


def _list_estimates(quality: CaseQuality) -> Iterator[tuple[str, str]]:
    """Yields the expected scores of every class that has some, with their intervals."""
    for name, entry in quality.classes.items():
        for title, found in (("Dice", entry.dice), ("NSD", entry.nsd)):
            if found is not None:
                yield f"{name}, expected {title}", f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def find_volume_unit(plan: Plan) -> str:
    """Finds the unit of volumes in words: images without a spacing have voxels."""
    return "ml" if plan.distance_unit == "mm" else "1000 voxels"


def find_usual_volumes(fingerprint: Fingerprint) -> dict[str, tuple[float, float, float, float]]:
    """Finds smallest, median and largest volume of every class in the training cases, and the spread of its logarithm.

    Classes that few cases hold have no usual volume. The smallest is 0 for those that some cases lack.
    """
    usual = {}
    for name, volumes in compute_class_volumes(fingerprint).items():
        if len(volumes) >= FEWEST_TRAINING_CASES:
            logarithms = np.log(volumes)
            spread = FROM_MAD * float(np.median(np.abs(logarithms - np.median(logarithms))))
            is_always_there = len(volumes) >= PRESENT_FRACTION * len(fingerprint.cases)
            smallest = min(volumes) if is_always_there else 0.0
            usual[name] = (smallest, float(np.median(volumes)), max(volumes), max(spread, SMALLEST_DEVIATION))
    return usual


def find_concerns(
    volumes_ml: Mapping[str, float], usual: Mapping[str, tuple[float, float, float, float]], *, unit: str = "ml"
) -> tuple[float, tuple[str, ...]]:
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


def describe_predictions(cases: Sequence[PredictedCase], plan: Plan) -> Section:
    """Describes the volumes of all predictions."""
    unit = find_volume_unit(plan)
    names = plan.labels.class_names
    estimated = [name for name in names if any(_find_dice(case, name) is not None for case in cases)]
    columns = ["image", *(f"{name} ({unit})" for name in names), *map(_name_estimate, estimated), "unusual"]
    rows: list[Sequence[Cell]] = [
        (
            case.name,
            *(case.volumes_ml[name] for name in names),
            *(_find_dice(case, name) for name in estimated),
            "; ".join(case.concerns) or None,
        )
        for case in cases
    ]
    unusual = sum(bool(case.concerns) for case in cases)
    found = "something" if any(case.quality for case in cases) else "a volume"
    lead = (
        f"{len(cases)} predicted images, {unusual} with {found} unlike those of the training cases; these come first."
    )
    pictures = [(case.key, "unusual" if case.concerns else "") for case in cases[:MOST_THUMBNAILS]]
    formats = dict.fromkeys(columns[1:-1], ".2f") | {_name_estimate(name): ".3f" for name in estimated}
    title = "Volumes and expected Dice" if estimated else "Volumes"
    table = Table(columns, rows, cases=[case.key for case in cases], title=title, formats=formats)
    return Section("predictions", "Predictions", lead, [Gallery("", pictures), table])


def _name_estimate(name: str) -> str:
    return f"{name}, expected Dice"


def _find_dice(case: PredictedCase, name: str) -> float | None:
    found = None if case.quality is None else case.quality.classes.get(name)
    return None if found is None or found.dice is None else found.dice.value


def show_predictions(
    cases: Sequence[PredictedCase], plan: Plan, *, share: float = 1.0, progress: Progress
) -> tuple[ShownCase, ...]:
    """Reads, draws and encodes the predictions, as far as the bytes for them last."""
    known = {case.key: case for case in cases}
    shown = {
        case.key: ShownCase(key=case.key, name=case.name, details=case.details, note="unusual" if case.concerns else "")
        for case in cases
    }

    def read(key: str) -> CaseVolumes:
        case = known[key]
        stored = read_label_map(case.path)
        maps = {PREDICTION: plan.labels.encode(stored.array)}
        if isinstance(case.image, DicomSeries):
            return join_image(read_stack(stack_slices(case.image)), maps, stored.grid)
        return build_volumes([] if case.image is None else [case.image], maps, stored.grid)

    keys = list(known)
    return add_views(shown, read, order=keys, pictures=keys[:MOST_THUMBNAILS], share=share, progress=progress)


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


def lack_images(cases: Iterable[PredictedCase]) -> bool:
    """Returns whether no image of the predictions is known."""
    return all(case.image is None for case in cases)


def _find_images(folder: Path, image_folder: Path | None) -> Mapping[str, Path | DicomSeries]:
    path = folder / RECORD_NAME
    if not path.is_file():
        return {}
    record = read_document(path, PredictionRecord)
    if record.images != DICOM_SOURCE:
        root = image_folder or Path(record.images)
        return {name: root / image for name, image in record.outputs.items()}
    if image_folder is None:  # UIDs lead to no file
        return {}
    series = {one.uid: one for one in find_series(image_folder).series}
    return {name: series[uid] for name, uid in record.outputs.items() if uid in series}


def _read(
    path: Path,
    image: Path | DicomSeries | None,
    labels: LabelScheme,
    usual: Mapping[str, tuple[float, float, float, float]],
    *,
    unit: str,
) -> PredictedCase:
    stored = read_label_map(path)
    unknown = labels.find_unknown_values(stored.array)
    if unknown:
        msg = (
            f"{path}: expected the values {', '.join(map(str, labels.file_values))} of the run's classes, found "
            f"{unknown[0]}; name the OUT of a prediction by this run"
        )
        raise PredictionError(msg)
    volumes_ml = _measure_classes(stored, labels)
    urgency, concerns = find_concerns(volumes_ml, usual, unit=unit)
    name = strip_ending(path.name)
    return PredictedCase(
        name=name, path=path, image=image, volumes_ml=volumes_ml, unit=unit, urgency=(-urgency, 1.0), concerns=concerns
    )


def _measure_classes(stored: LabelVolume, labels: LabelScheme) -> dict[str, float]:
    counts = np.bincount(labels.encode(stored.array).ravel(), minlength=len(labels.file_values))
    grid = stored.grid
    voxel_ml = measure_voxel_ml(grid.spacing_mm, grid.shape_voxels, tells_spacing=grid.tells_spacing)
    return {
        name: float(counts[list(members)].sum()) * voxel_ml
        for name, members in zip(labels.class_names, labels.class_labels, strict=True)
    }
