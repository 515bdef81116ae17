"""The section about predictions of new images, those that a person should look at first on top."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer

from autoseg.document import read_document
from autoseg.plan import Plan
from autoseg.processes.progress import Progress
from autoseg.quality.shown_units import VOLUME_UNITS
from autoseg.report.blocks import Block, Cell, Gallery, Notes, Section, Table
from autoseg.report.page import ShownCase
from autoseg.report.volumes import CaseVolumes
from autoseg.volume_io import LabelVolume, read_label_map
from autoseg.volume_io.dicom import DicomSeries, read_stack, stack_slices
from autoseg.workflows.evaluate.objects import SCORES_JSON, ObjectEvaluation
from autoseg.workflows.predict.prediction_folder import QUALITY_NAME
from autoseg.workflows.report.cases import PREDICTION, add_views, build_volumes, join_image
from autoseg.workflows.report.objects import read_numbers, separate_objects
from autoseg.workflows.report.predicted_cases import (
    NOT_COMPARED,
    PredictedCase,
    PredictedFolder,
)
from autoseg.workflows.report.scores import tabulate_object_scores

MOST_THUMBNAILS: Final = 24
Column = tuple[str, str, Callable[[PredictedCase], Cell]]
"""Heading, format of its numbers, and the cell of a case."""


def describe_predictions(found: PredictedFolder, folder: Path, plan: Plan) -> Section:
    """Describes the objects, volumes and estimated quality of all predictions."""
    cases = found.cases
    columns = [*_list_measures(plan), *_list_estimates(found, plan)]
    heading: list[Column] = [("image", "", lambda case: case.name), *columns, ("unusual", "", _describe_concerns)]
    rows = [[get(case) for _, _, get in heading] for case in cases]
    table = Table(
        [name for name, _, _ in heading],
        rows,
        cases=[case.key for case in cases],
        title="Volumes and expected Dice" if any(case.quality for case in cases) else "Volumes",
        formats={name: kind for name, kind, _ in heading if kind},
        source=f"all of them are in {QUALITY_NAME}",
    )
    gallery = Gallery("", [(case.key, case.note) for case in cases[:MOST_THUMBNAILS]])
    blocks: list[Block] = [gallery, Notes([f"quality: {found.basis}", *found.rules]), table, *_list_scores(folder)]
    return Section("predictions", "Predictions", _describe_order(found), blocks)


def _describe_order(found: PredictedFolder) -> str:
    cases, compared = found.cases, found.compared
    if not compared:
        return f"{len(cases)} predicted images, {NOT_COMPARED} with the training cases; those to look at come first."
    unusual = sum(bool(case.concerns) for case in cases)
    something = "something" if any(case.quality for case in cases) else "a volume"
    others = "" if len(compared) == len(cases) else f" ({len(cases) - len(compared)} {NOT_COMPARED})"
    return (
        f"{len(cases)} predicted images, {unusual} with {something} unlike those of the training cases{others}; "
        f"these come first."
    )


def _describe_concerns(case: PredictedCase) -> str | None:
    return "; ".join(case.concerns) or (None if case.is_compared else NOT_COMPARED)


def _list_measures(plan: Plan) -> Iterator[Column]:
    """Yields the columns of every class: its objects, where they are told apart, and its volume."""
    unit = VOLUME_UNITS[plan.distance_unit]
    for name in plan.dataset_labels.class_names:
        if plan.instances is not None:
            yield f"{name} (objects)", "d", partial(PredictedCase.find_count, name=name)
        yield f"{name} ({unit})", ".2f", partial(PredictedCase.find_volume, name=name)


def _list_estimates(found: PredictedFolder, plan: Plan) -> Iterator[Column]:
    """Yields the columns of estimates that some case has."""
    for name in plan.labels.class_names:
        if any(case.find_dice(name) is not None for case in found.cases):
            yield f"{name}, expected Dice", ".3f", partial(PredictedCase.find_dice, name=name)
    if any(case.plausibility is not None for case in found.cases):
        yield "plausibility", ".3f", lambda case: case.plausibility


def _list_scores(folder: Path) -> Iterator[Table]:
    """Yields the scores of objects, where these predictions were evaluated."""
    path = folder / SCORES_JSON
    if path.is_file():
        scores = read_document(path, ObjectEvaluation)
        rows = [(name, source, own.pooled) for source, known in scores.classes.items() for name, own in known.items()]
        yield tabulate_object_scores(rows, title="Scores of the objects of all evaluated images together")


def show_predictions(
    cases: Sequence[PredictedCase], plan: Plan, *, share: float = 1.0, progress: Progress
) -> tuple[ShownCase, ...]:
    """Reads, draws and encodes the predictions, as far as the bytes for them last."""
    known = {case.key: case for case in cases}
    shown = {case.key: ShownCase(key=case.key, name=case.name, details=case.details, note=case.note) for case in cases}

    def read(key: str) -> CaseVolumes:
        case = known[key]
        stored = read_label_map(case.path)
        maps = {PREDICTION: _encode(case.path, stored, plan)}
        if isinstance(case.image, DicomSeries):
            return join_image(read_stack(stack_slices(case.image)), maps, stored.grid)
        return build_volumes([] if case.image is None else [case.image], maps, stored.grid)

    keys = list(known)
    return add_views(shown, read, order=keys, pictures=keys[:MOST_THUMBNAILS], share=share, progress=progress)


def _encode(path: Path, stored: LabelVolume, plan: Plan) -> Integer[np.ndarray, "z y x"]:
    """Encodes a label map as the page names labels: classes of objects come after all labels of the network."""
    encoded = plan.dataset_labels.encode(stored.array)
    if plan.instances is None:
        return encoded
    shown = separate_objects(encoded, read_numbers(path, stored))
    return np.where(shown > 0, shown + len(plan.labels.foreground_labels), 0)
