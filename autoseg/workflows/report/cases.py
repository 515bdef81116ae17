"""The section about single cases: their scores, and pictures and volumes of as many as the size of the page allows."""

import itertools
import math
import statistics
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import join
from typing import Final

import numpy as np
from jaxtyping import Integer

from autoseg.dicom_files import is_series_folder
from autoseg.errors import AutosegError
from autoseg.evaluation.crossvalidation import CrossValidation
from autoseg.evaluation.summary import CaseSummary
from autoseg.geometry import Grid
from autoseg.labels import LabelScheme
from autoseg.processes.progress import Progress
from autoseg.report.blocks import DASH, Block, Cell, Gallery, Notes, Section, Table
from autoseg.report.page import MOST_PICTURE_BYTES, MOST_VOLUME_BYTES, ShownCase
from autoseg.report.pictures import draw_slices
from autoseg.report.volumes import ERRORS, CaseVolumes, find_errors
from autoseg.volume_io import Volume, list_grid_differences, read_image, read_label_map
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.report.contents import RunContents
from autoseg.workflows.report.scores import MOST_CLASS_COLUMNS

MOST_CASES_WITH_VOLUMES: Final = 40
MOST_LISTED_CASES: Final = 5_000
"""More cases than the rows of a page have bytes for, so that the memory for a page has a limit, too."""
SHARE_OF_A_CASE: Final = 6  # a single case takes at most this part of the bytes for volumes
REFERENCE, PREDICTION = "reference", "prediction"
ReadCase = Callable[[str], CaseVolumes]


def name_labels(labels: LabelScheme) -> tuple[str, ...]:
    """Names the labels 1, 2, ...; one that belongs to several regions has all their names."""
    names = [entry.name for entry in labels.classes]
    members = [labels.find_regions(labels.file_values[label]) for label in labels.foreground_labels]
    return tuple(" + ".join(names[index] for index in sorted(own)) for own in members)


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """Scores of the held-out cases of a configuration, as many as a page lists.

    Attributes:
        configuration: Name of the configuration.
        listed: Fold and scores of the cases, the lowest mean Dice first.
        examples: The worst, the median and the best case, each once; empty if no mean Dice is defined.
        left_out: Number of the cases that are not listed, those with the highest mean Dice.
    """

    configuration: str
    listed: Sequence[tuple[str, CaseSummary]]
    examples: Sequence[tuple[str, CaseSummary]]
    left_out: int

    @property
    def notes(self) -> dict[str, str]:
        """Returns a word on each of the examples, by case."""
        return dict(zip((entry.case for _, entry in self.examples), ("worst", "median", "best"), strict=False))

    @property
    def by_case(self) -> dict[str, tuple[str, CaseSummary]]:
        """Returns fold and scores of the examples and of the listed cases."""
        return {entry.case: (fold, entry) for fold, entry in (*self.listed, *self.examples)}


def read_scores(contents: RunContents, *, most: int = MOST_LISTED_CASES) -> HeldOutScores:
    """Ranks the held-out cases of the first configuration that has scores, and reads the first `most` of them."""
    configuration = contents.scored[0]
    folds = contents.select_folds(configuration)
    names, dice, places = [], array("d"), []
    for fold, summary in folds.items():
        for place, entry in enumerate(summary.metric_per_case):
            mean = compute_mean_dice(entry)
            names.append(entry.case)
            dice.append(math.inf if mean is None else mean)
            places.append((fold, place))

    def read(index: int) -> tuple[str, CaseSummary]:
        fold, place = places[index]
        return fold, folds[fold].metric_per_case[place]

    order = sorted(range(len(names)), key=lambda index: (dice[index], names[index]))
    lowest: dict[str, int] = {}  # a case that several folds hold out has as many rows
    for index in itertools.takewhile(lambda index: math.isfinite(dice[index]), order):
        lowest.setdefault(names[index], index)
    ranked = list(lowest.values())
    examples = dict.fromkeys((ranked[0], ranked[len(ranked) // 2], ranked[-1])) if ranked else {}
    return HeldOutScores(
        configuration=configuration,
        listed=[read(index) for index in order[:most]],
        examples=[read(index) for index in examples],
        left_out=max(0, len(order) - most),
    )


def describe_cases(contents: RunContents, scores: HeldOutScores, result: CrossValidation) -> Section:
    """Describes the held-out cases."""
    columns, rows = _tabulate(scores.listed, result)
    blocks: list[Block] = [
        Gallery("", list(scores.notes.items())),
        Table(
            columns,
            rows,
            cases=[entry.case for _, entry in scores.listed],
            title="Held-out cases",
            source="all of them are in summary.csv of each fold",
            left_out=scores.left_out,
        ),
        Notes([_describe_images(contents)]),
    ]
    what = f"Held-out cases of {scores.configuration}, ordered by their mean Dice"
    return Section("cases", "Cases", f"{what}. Choose a row or a picture to look at a case in 3D.", blocks)


def compute_mean_dice(entry: CaseSummary) -> float | None:
    """Computes the mean Dice of a case over the classes for which it is defined."""
    known = [values.Dice for values in entry.metrics.values() if values.Dice is not None]
    return statistics.fmean(known) if known else None


def _tabulate(
    entries: Sequence[tuple[str, CaseSummary]], result: CrossValidation
) -> tuple[list[str], list[Sequence[Cell]]]:
    names = result.class_names
    is_wide = len(names) > MOST_CLASS_COLUMNS
    columns = ["case", "fold", "mean Dice"]
    columns += ["lowest Dice", "class"] if is_wide else list(names.values()) if len(names) > 1 else []
    columns += [f"mean HD95 ({'mm' if result.distance_unit == 'mm' else 'pixels'})"]
    rows: list[Sequence[Cell]] = []
    for fold, entry in entries:
        cells: list[Cell] = [entry.case, fold, compute_mean_dice(entry)]
        dice = {names[key]: values.Dice for key, values in entry.metrics.items()}
        if is_wide:
            cells += _find_lowest(dice)
        elif len(names) > 1:
            cells += list(dice.values())
        distances = [values.HD95 for values in entry.metrics.values() if values.HD95 is not None]
        rows.append([*cells, statistics.fmean(distances) if distances else None])
    return columns, rows


def _find_lowest(dice: Mapping[str, float | None]) -> list[Cell]:
    known = {name: value for name, value in dice.items() if value is not None}
    if not known:
        return [None, None]
    lowest = min(known, key=lambda name: known[name])
    return [known[lowest], lowest]


def _describe_images(contents: RunContents) -> str:
    unit = f"Pictures and volumes are cropped around the labels, in 8 bit{_name_channel(contents)}"
    return f"{unit}; errors are voxels that are missed, predicted where there is nothing, or of another class."


def _name_channel(contents: RunContents) -> str:
    channels = contents.plan.channels
    return f", of the channel {channels[0].name}" if len(channels) > 1 and contents.plan.orientation else ""


def show_cases(
    contents: RunContents, scores: HeldOutScores, *, share: float = 1.0, progress: Progress
) -> tuple[ShownCase, ...]:
    """Reads, draws and encodes the cases of the section: worst, median and best first, then from the worst on."""
    entries, notes = scores.by_case, scores.notes
    scored = (entry.case for _, entry in scores.listed if compute_mean_dice(entry) is not None)

    def read(case: str) -> CaseVolumes:
        return read_case(contents, scores.configuration, *entries[case])

    class_names = next(iter(contents.select_folds(scores.configuration).values())).class_names
    known = {
        case: ShownCase(
            key=case,
            name=case,
            note=notes.get(case, ""),
            details=list(_list_details(fold, entry, class_names)),
            command=_write_command(contents, scores.configuration, fold, entry),
        )
        for case, (fold, entry) in entries.items()
    }
    return add_views(
        known, read, order=dict.fromkeys((*notes, *scored)), pictures=tuple(notes), share=share, progress=progress
    )


def add_views(
    cases: Mapping[str, ShownCase],
    read: ReadCase,
    *,
    order: Iterable[str],
    pictures: Sequence[str],
    share: float,
    progress: Progress,
) -> tuple[ShownCase, ...]:
    """Adds pictures and volumes to cases, in the given order, as long as the bytes for them last.

    Args:
        cases: Cases by key.
        read: Reads the volumes of a case.
        order: Keys in the order of importance.
        pictures: Keys of the cases whose pictures the page shows.
        share: Part of the page's bytes for volumes and pictures that these cases may take.
        progress: Shows the progress, and what cannot be read.
    """
    shown = dict(cases)
    for_volumes, for_pictures = share * MOST_VOLUME_BYTES, share * MOST_PICTURE_BYTES
    names = list(order)[:MOST_CASES_WITH_VOLUMES]
    for case in progress.track(names, label="Drawing", total=len(names), unit="case"):
        needs_picture = case in pictures and for_pictures > 0
        if for_volumes <= 0 and not needs_picture:
            continue
        try:
            prepared = read(case).prepare()
        except AutosegError as error:
            progress.note(f"warning: case {case} is shown without pictures: {error}")
            continue
        encoded = prepared.encode_all(most_bytes=MOST_VOLUME_BYTES // SHARE_OF_A_CASE)
        size = sum(map(len, encoded.values()))
        drawn = list(_draw(prepared)) if needs_picture else []
        for_pictures -= sum(len(picture) for _, picture in drawn)
        fits = size <= for_volumes
        for_volumes = for_volumes - size if fits else 0
        shown[case] = replace(shown[case], pictures=drawn, volumes=encoded if fits else {})
    return tuple(shown.values())


def _draw(prepared: CaseVolumes) -> Iterator[tuple[str, str]]:
    for layer in prepared.label_maps or (None,):
        yield layer or "image", draw_slices(prepared, layer)


def read_case(contents: RunContents, configuration: str, fold: str, entry: CaseSummary) -> CaseVolumes:
    """Reads image, reference and prediction of a held-out case; the image only where the dataset still is.

    Raises:
        RunError: The reference is missing.
        VolumeError: A file cannot be read.
    """
    labels = contents.plan.labels
    stored = read_label_map(find_reference(contents.run, entry.case))
    reference = labels.encode(stored.array)
    validation = contents.run.fold(configuration, fold).validation
    prediction = labels.encode(read_label_map(validation / Path(entry.prediction_file).name).array)
    errors = find_errors(reference, prediction)
    if labels.ignore_label is not None:
        errors[reference == labels.ignore_label] = 0
        reference = np.where(reference == labels.ignore_label, 0, reference)
    maps: dict[str, Integer[np.ndarray, "z y x"]] = {REFERENCE: reference, PREDICTION: prediction, ERRORS: errors}
    return build_volumes(_find_images(contents, entry.case), maps, stored.grid)


def build_volumes(
    images: Sequence[Path], label_maps: Mapping[str, Integer[np.ndarray, "z y x"]], grid: Grid
) -> CaseVolumes:
    """Joins label maps with the image that they belong to, if it can be read and lies on their grid."""
    is_there = images and all(path.is_file() or is_series_folder(path) for path in images)
    return join_image(read_image(images[:1]) if is_there else None, label_maps, grid)


def join_image(
    volume: Volume | None, label_maps: Mapping[str, Integer[np.ndarray, "z y x"]], grid: Grid
) -> CaseVolumes:
    """Joins label maps with an image, if it lies on their grid: with all colours of a picture, else one channel."""
    image = None
    if volume is not None and _is_on_grid(volume.grid, grid):
        image = volume.array if len(volume.array) == 3 and not volume.grid.is_oriented else volume.array[:1]
    return CaseVolumes(image=image, label_maps=label_maps, grid=grid)


def _is_on_grid(found: Grid, grid: Grid) -> bool:
    """Returns whether two grids are the same; of pictures, which have no place, only the shape is compared."""
    if found.is_oriented and grid.is_oriented:
        return not list_grid_differences(grid, found)
    return found.shape_voxels == grid.shape_voxels


def _find_images(contents: RunContents, case: str) -> list[Path]:
    record = contents.dataset
    return [] if record is None else [Path(record.source) / image for image in contents.images.get(case, ())]


def _list_details(fold: str, entry: CaseSummary, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    mean = compute_mean_dice(entry)
    yield "mean Dice", DASH if mean is None else f"{mean:.3f}"
    for key, values in list(entry.metrics.items())[:24]:
        yield names[key], DASH if values.Dice is None else f"{values.Dice:.3f}"
    yield "fold", fold


def _write_command(contents: RunContents, configuration: str, fold: str, entry: CaseSummary) -> str:
    """Writes the command that shows a case, with paths that begin with the names of dataset and run."""
    run, record = contents.run, contents.dataset
    prediction = run.fold(configuration, fold).validation / Path(entry.prediction_file).name
    reference = run.references / Path(entry.reference_file).name
    images = [path.relative_to(record.source) for path in _find_images(contents, entry.case)] if record else []
    image = [str(Path(record.name) / images[0])] if record and images else []
    maps = [str(Path(run.root.name) / path.relative_to(run.root)) for path in (reference, prediction)]
    return join(["autoseg", "view", *image, *maps])
