"""Evaluates the objects of predicted label maps: those that were told apart, and connected components beside them."""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64, Integer

from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import CasesFailedError, EvaluationError
from autoseg.evaluation.instances import (
    IOU_THRESHOLDS,
    Matches,
    ObjectScores,
    match_objects,
    score_objects,
)
from autoseg.geometry import Grid
from autoseg.labels import LabelScheme
from autoseg.places.local import ThisComputer
from autoseg.places.place import Place
from autoseg.plan.document import Plan
from autoseg.postprocessing.instances import number_reference, number_scored_components
from autoseg.processes.case_pool import list_problems, write_failure_log
from autoseg.processes.progress import Progress
from autoseg.run_folder import open_run, write_text
from autoseg.volume_io import LabelVolume, check_same_grid, turn_like_image
from autoseg.workflows.cases.reading import read_object_numbers
from autoseg.workflows.cases.references import OBJECTS_FOLDER, name_objects
from autoseg.workflows.evaluate.evaluation import (
    EvaluationJob,
    count_evaluation_workers,
    pair_label_maps,
    read_pair,
)

LABEL: Final = "Matching objects"
SCORES_JSON: Final = "object_scores.json"
SCORES_CSV: Final = "object_scores.csv"
ObjectSource = Literal["instances", "components"]
DEFINITIONS: Final = {
    "match": "predicted and reference object of one class with an IoU above 0.5, and at least the threshold",
    "AP50, AP75": "TP / (TP + FP + FN) at the IoU thresholds 0.5 and 0.75; AP: mean over "
    f"{', '.join(f'{threshold:g}' for threshold in IOU_THRESHOLDS)}",
    "F1": "2 TP / (2 TP + FP + FN) at 0.5 (RQ); SQ: mean IoU of the matches; PQ: F1 x SQ",
    "instances": "objects that the prediction numbers; components: connected components of its classes instead",
    "pooled": "objects of all cases together; mean: mean of the scores of the cases that have objects",
}


class ClassObjects(Part):
    """Scores of the objects of a class, over all cases together.

    Attributes:
        pooled: Scores of the objects of all cases together.
        ap_over_cases, ap50_over_cases, pq_over_cases: Means of the scores of the cases in which they are defined.
    """

    pooled: ObjectScores
    ap_over_cases: float | None
    ap50_over_cases: float | None
    pq_over_cases: float | None


class ObjectEvaluation(Document):
    """Scores of the objects of a folder of label maps.

    Attributes:
        definitions: The scores in words.
        classes: Scores by source of the objects, then by class.
        cases: The same of every case.
    """

    schema_version: Literal[1] = 1
    definitions: dict[str, str]
    classes: dict[ObjectSource, dict[str, ClassObjects]]
    cases: dict[str, dict[ObjectSource, dict[str, ObjectScores]]]


ObjectJob = tuple[EvaluationJob, Path | None, Path]
"""A predicted label map and its reference, and the numbers of the objects of both; None where there are no numbers."""
OfSources = Mapping[ObjectSource, tuple[Matches, ...]]
"""Matches by source of the objects, then by class."""


def evaluate_objects(
    predictions: Path,
    references: Path,
    instances: Path,
    *,
    run_root: Path,
    progress: Progress,
    place: Place | None = None,
) -> ObjectEvaluation:
    """Evaluates the objects of every predicted label map and writes object_scores.json and .csv beside them.

    The numbers of predicted objects are those in the subfolder `instances` of the predictions. Connected components of
    the classes are evaluated in any case.

    Args:
        predictions: Folder of predicted label maps.
        references: Folder of reference label maps.
        instances: Folder of label maps that number the objects of the references, or of folders with one for each.
        run_root: Run, which defines the labels.
        progress: Receives notes and progress.
        place: Evaluates the cases; None: this computer.

    Raises:
        EvaluationError: There are no predictions, or files are missing.
        CasesFailedError: Some cases cannot be compared.
    """
    labels = read_document(open_run(run_root).plan, Plan).dataset_labels
    folder = predictions if predictions.is_dir() else predictions.parent
    jobs = _list_jobs(predictions, references, instances, labels=labels)
    if all(numbers is None for _, numbers, _ in jobs):
        progress.note(f"{folder} has no folder {OBJECTS_FOLDER}: objects are connected components of its classes")
    outcome = (place or ThisComputer()).run_over_cases(
        _match_case,
        [(job[0].case, job) for job in jobs],
        workers=count_evaluation_workers(len(jobs)),
        label=LABEL,
        progress=progress,
    )
    if outcome.failures:
        lines = [*list_problems(outcome.failures), *write_failure_log(folder / "evaluation.log", outcome.failures)]
        heading = f"the objects of {len(outcome.failures)} of {len(jobs)} cases cannot be evaluated:"
        raise CasesFailedError(heading, lines)
    matches = {job.case: found for (job, _, _), found in zip(jobs, outcome.results, strict=True)}
    evaluation = summarize_objects(matches, labels.class_names)
    write_document(folder / SCORES_JSON, evaluation)
    write_text(folder / SCORES_CSV, _format_rows(evaluation))
    return evaluation


def describe_matching(predictions: Path, references: Path, instances: Path, *, run_root: Path, place: Place) -> str:
    """Describes the jobs that would evaluate the objects.

    Raises:
        EvaluationError: As `evaluate_objects`.
        OptionError: The place has no jobs.
    """
    labels = read_document(open_run(run_root).plan, Plan).dataset_labels
    jobs = _list_jobs(predictions, references, instances, labels=labels)
    return place.describe_cases([(job[0].case, job) for job in jobs], label=LABEL)


def _list_jobs(predictions: Path, references: Path, instances: Path, *, labels: LabelScheme) -> list[ObjectJob]:
    expected = {case: path for case, _, path in pair_label_maps(predictions, instances, takes_folders=True)}
    jobs: list[ObjectJob] = []
    for case, prediction, reference in pair_label_maps(predictions, references):
        numbers = prediction.parent / OBJECTS_FOLDER / name_objects(prediction.name)
        job = EvaluationJob(case=case, prediction=prediction, reference=reference, labels=labels)
        jobs.append((job, numbers if numbers.is_file() else None, expected[case]))
    lacking = [job for job, numbers, _ in jobs if numbers is None]
    if lacking and len(lacking) < len(jobs):
        msg = (
            f"{lacking[0].prediction.parent / OBJECTS_FOLDER} lacks the objects of {len(lacking)} of {len(jobs)} "
            f"predictions, such as {lacking[0].case}; predict them again"
        )
        raise EvaluationError(msg)
    return jobs


def _match_case(job: ObjectJob) -> OfSources:
    """Matches the objects of one case, in a worker process."""
    label_maps, predicted_path, expected_path = job
    pair, grid = read_pair(label_maps)
    expected = _read_numbers(expected_path, grid, pair.reference, ignore_label=label_maps.labels.ignore_label)
    references = _number_classes(pair.reference, expected, label_maps.labels)
    is_scored = _find_scored(pair.reference, label_maps.labels)
    predictions = [np.isin(pair.prediction, members) for members in label_maps.labels.class_labels]
    found: dict[ObjectSource, tuple[Matches, ...]] = {}
    if predicted_path is not None:
        predicted = _read_numbers(predicted_path, grid, pair.prediction, ignore_label=None)
        found["instances"] = tuple(
            match_objects(np.where(is_class & is_scored, predicted, 0), reference)
            for is_class, reference in zip(predictions, references, strict=True)
        )
    found["components"] = tuple(
        match_objects(
            number_scored_components(is_class, is_scored, numbers=expected, is_class=reference > 0), reference
        )
        for is_class, reference in zip(predictions, references, strict=True)
    )
    return found


def _number_classes(
    reference: Int16[np.ndarray, "z y x"], numbers: Int32[np.ndarray, "z y x"], labels: LabelScheme
) -> list[Int64[np.ndarray, "z y x"]]:
    """Lists the numbers of the objects of each class; ignored voxels belong to none."""
    is_scored = _find_scored(reference, labels)
    return [number_reference(numbers, np.isin(reference, members) & is_scored) for members in labels.class_labels]


def _find_scored(reference: Int16[np.ndarray, "z y x"], labels: LabelScheme) -> Bool[np.ndarray, "z y x"]:
    is_scored: Bool[np.ndarray, "z y x"] = reference != (-1 if labels.ignore_label is None else labels.ignore_label)
    return is_scored


def _read_numbers(
    path: Path, grid: Grid, label_map: Integer[np.ndarray, "z y x"], *, ignore_label: int | None = None
) -> Int32[np.ndarray, "z y x"]:
    return read_object_numbers(path, partial(_fit, grid=grid), label_map=label_map, ignore_label=ignore_label).array


def _fit(volume: LabelVolume, path: Path, *, grid: Grid) -> LabelVolume:
    what = f"objects {path}"
    turned = turn_like_image(volume, grid, what=what)
    check_same_grid(grid, turned.grid, what=what)
    return turned


def summarize_objects(matches: Mapping[str, OfSources], class_names: Sequence[str]) -> ObjectEvaluation:
    """Computes all scores from the matches of each case."""
    sources = tuple(next(iter(matches.values())))
    cases = {
        case: {
            source: {name: score_objects([entry]) for name, entry in zip(class_names, of_case[source], strict=True)}
            for source in sources
        }
        for case, of_case in matches.items()
    }
    classes: dict[ObjectSource, dict[str, ClassObjects]] = {
        source: {
            name: _summarize_class(
                [of_case[source][index] for of_case in matches.values()],
                [scores[source][name] for scores in cases.values()],
            )
            for index, name in enumerate(class_names)
        }
        for source in sources
    }
    return ObjectEvaluation(definitions=DEFINITIONS, classes=classes, cases=cases)


def _summarize_class(matches: Sequence[Matches], scores: Sequence[ObjectScores]) -> ClassObjects:
    return ClassObjects(
        pooled=score_objects(matches),
        ap_over_cases=_compute_mean([entry.AP for entry in scores]),
        ap50_over_cases=_compute_mean([entry.AP50 for entry in scores]),
        pq_over_cases=_compute_mean([entry.PQ for entry in scores]),
    )


def _compute_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _format_rows(evaluation: ObjectEvaluation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case", "objects", "class", *ObjectScores.model_fields))
    for case, of_case in evaluation.cases.items():
        for source, classes in of_case.items():
            for name, scores in classes.items():
                writer.writerow((case, source, name, *scores.model_dump().values()))
    return text.getvalue()
