"""Evaluates predicted label maps against their references."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from autoseg.dataset.files import list_subfolders
from autoseg.dicom_files import explain_dicom
from autoseg.document import NamedItems, PackedSequence, read_document
from autoseg.errors import CasesFailedError, EvaluationError, shorten_names
from autoseg.evaluation.case_metrics import LabelMapPair, evaluate_case
from autoseg.evaluation.summary import (
    SUMMARY_JSON,
    CaseEvaluation,
    CollectedScores,
    EvaluationSummary,
    write_summary,
)
from autoseg.file_endings import LOSSY_ENDINGS, are_two_volumes, find_ending, strip_ending, strip_label_map_ending
from autoseg.geometry import Grid, find_distance_unit
from autoseg.labels import LabelScheme
from autoseg.places.local import ThisComputer
from autoseg.places.place import Place
from autoseg.plan.document import Plan
from autoseg.processes.case_pool import compute_worker_count, list_problems, write_failure_log
from autoseg.processes.progress import Progress
from autoseg.remote.mirror import find_location
from autoseg.run_folder import PREDICTION_RECORD, RunFolder, check_writable, open_run
from autoseg.validation_conditions import ValidationConditions
from autoseg.volume_io import READABLE_ENDINGS, LabelVolume, check_same_grid, read_label_map, turn_like_image
from autoseg.volume_io.dicom import RESULT_ENDINGS

SURFACE_TOLERANCE_MM = 1.0
LABEL: Final = "Evaluating"
BYTES_PER_CASE = 2**30  # two label maps of 512 x 512 x 500 voxels and distance maps of one organ


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationJob:
    """A predicted label map and its reference on disk."""

    case: str
    prediction: Path
    reference: Path
    labels: LabelScheme


@dataclass(frozen=True, slots=True)
class JobCodec:
    """Packs jobs.

    Attributes:
        labels: Labels of all of them.
    """

    labels: LabelScheme

    def pack(self, job: EvaluationJob) -> tuple[str, str, str]:
        """Returns the name of the case and both paths."""
        return job.case, str(job.prediction), str(job.reference)

    def unpack(self, packed: Any) -> EvaluationJob:
        """Builds the job anew."""
        case, prediction, reference = packed
        return EvaluationJob(case=case, prediction=Path(prediction), reference=Path(reference), labels=self.labels)


def evaluate_folder(
    predictions: Path, references: Path, *, run_root: Path, progress: Progress, place: Place | None = None
) -> EvaluationSummary:
    """Evaluates every predicted label map and writes summary.json and summary.csv beside them.

    Raises:
        EvaluationError: There are no predictions, references are missing, or the arguments are swapped.
        RunError: There is no run, or the folder of the predictions cannot be written.
        CasesFailedError: Some cases cannot be compared; the summary of the others is written.
    """
    jobs = _list_jobs(predictions, references, run_root)
    unpaired = list_unpaired(predictions, references)
    if unpaired:
        one = len(unpaired) == 1
        those = "1 reference has" if one else f"{len(unpaired)} references have"
        count = "counts" if one else "count"
        progress.note(f"warning: {those} no prediction and {count} nowhere: {shorten_names(unpaired)}")
    if (references / PREDICTION_RECORD).is_file() and not (predictions / PREDICTION_RECORD).exists():
        progress.note(
            f"warning: {references}, named as the references, holds what autoseg predicted ({PREDICTION_RECORD}), and "
            f"{predictions} does not; if they are swapped, repeat it as: autoseg evaluate PREDICTIONS REFERENCES"
        )
    folder = predictions if predictions.is_dir() else predictions.parent
    check_writable(folder)
    return evaluate_jobs(jobs, folder=folder, progress=progress, place=place)


def describe_evaluating(predictions: Path, references: Path, *, run_root: Path, place: Place) -> str:
    """Describes the jobs that would evaluate the label maps.

    Raises:
        EvaluationError: As `evaluate_folder`.
        OptionError: The place has no jobs.
    """
    jobs = _list_jobs(predictions, references, run_root)
    return place.describe_cases(NamedItems(jobs, attrgetter("case")), label=LABEL)


def _list_jobs(predictions: Path, references: Path, run_root: Path) -> PackedSequence[EvaluationJob]:
    run = open_run(run_root)
    _check_order(predictions, run)
    labels = read_document(run.plan, Plan).dataset_labels
    pairs = iterate_pairs(predictions, references)
    return PackedSequence(
        JobCodec(labels),
        (
            EvaluationJob(case=case, prediction=prediction, reference=reference, labels=labels)
            for case, prediction, reference in pairs
        ),
    )


def _check_order(predictions: Path, run: RunFolder) -> None:
    if predictions.resolve() == run.references.resolve():
        msg = f"{predictions} holds the references of the run; name the predictions first, then their references"
        raise EvaluationError(msg)


def evaluate_jobs(
    jobs: Sequence[EvaluationJob],
    *,
    folder: Path,
    progress: Progress,
    validation: ValidationConditions | None = None,
    place: Place | None = None,
) -> EvaluationSummary:
    """Evaluates pairs of files and writes the summary into `folder`, with the conditions of a validation, if it is one.

    Args:
        jobs: Pairs of files.
        folder: Folder of the predictions.
        progress: Receives the progress.
        validation: Conditions of a validation.
        place: Evaluates the cases; None: this computer.

    Raises:
        CasesFailedError: Some cases cannot be compared; the summary of the others is written.
    """
    collected = CollectedScores(jobs[0].labels) if jobs else None
    outcome = (place or ThisComputer()).run_over_cases(
        evaluate_job,
        NamedItems(jobs, attrgetter("case")),
        workers=count_evaluation_workers(len(jobs)),
        label=LABEL,
        progress=progress,
        collect=None if collected is None else collected.add,
    )
    summary = None
    if collected is not None and len(outcome.failures) < len(jobs):
        summary = collected.summarize(tolerance_mm=SURFACE_TOLERANCE_MM, validation=validation)
        write_summary(folder, summary)
    if outcome.failures or summary is None:
        lines = [*list_problems(outcome.failures)]
        lines += write_failure_log(folder / "evaluation.log", outcome.failures)
        old = f"; {SUMMARY_JSON} there is that of an earlier evaluation:" if (folder / SUMMARY_JSON).exists() else ":"
        rest = "; the others are in the summary:" if summary is not None else old
        heading = f"{len(outcome.failures)} of {len(jobs)} cases cannot be evaluated{rest}"
        raise CasesFailedError(heading, lines)
    return summary


def count_evaluation_workers(case_count: int) -> int:
    """Returns the number of processes that evaluate so many cases."""
    return compute_worker_count(requested=None, case_count=case_count, bytes_per_case=BYTES_PER_CASE)


def evaluate_job(job: EvaluationJob) -> CaseEvaluation:
    """Does the work of one case in a worker process."""
    pair, grid = read_pair(job)
    metrics = evaluate_case(
        pair.prediction,
        pair.reference,
        spacing_mm=grid.spacing_mm,
        labels=job.labels,
        tolerance_mm=SURFACE_TOLERANCE_MM,
    )
    return CaseEvaluation(
        case=job.case,
        prediction_file=find_location(job.prediction),
        reference_file=find_location(job.reference),
        distance_unit=find_distance_unit([grid]),
        metrics=metrics,
    )


def read_pair(job: EvaluationJob) -> tuple[LabelMapPair, Grid]:
    """Reads both files; returns their internal labels and the grid of the reference.

    Raises:
        VolumeError: A file cannot be read, or they lie on different grids.
        EvaluationError: A value is not among those of the run.
    """
    prediction, what = read_label_map(job.prediction), f"prediction {job.prediction} of {job.reference}"
    reference = turn_like_image(read_label_map(job.reference), prediction.grid, what=what)
    check_same_grid(reference.grid, prediction.grid, what=what)
    _check_values(prediction, job.labels, job.prediction)
    _check_values(reference, job.labels, job.reference)
    pair = LabelMapPair(prediction=job.labels.encode(prediction.array), reference=job.labels.encode(reference.array))
    return pair, reference.grid


def pair_label_maps(
    predictions: Path, references: Path, *, takes_folders: bool = False
) -> list[tuple[str, Path, Path]]:
    """Lists the pairs that `iterate_pairs` yields.

    Raises:
        EvaluationError: There is nothing to evaluate, or references are missing.
    """
    return list(iterate_pairs(predictions, references, takes_folders=takes_folders))


def iterate_pairs(
    predictions: Path, references: Path, *, takes_folders: bool = False
) -> Iterator[tuple[str, Path, Path]]:
    """Yields predictions and references by case name (file name without ending), in the order of the names.

    Args:
        predictions: Folder of predicted label maps, or one of them.
        references: Folder of reference label maps, or one of them.
        takes_folders: Whether a subfolder of references stands for the case of its name, unless a file does.

    Raises:
        EvaluationError: There is nothing to evaluate, or references are missing.
    """
    predicted = _list_label_maps(predictions)
    if not predicted:
        msg = f"no label maps in {predictions}; expected files ending in {', '.join(READABLE_ENDINGS[:4])} ..."
        msg += explain_dicom(predictions)
        raise EvaluationError(msg)
    available = _list_label_maps(references)
    if takes_folders and references.is_dir():
        available = {path.name: path.name for path in list_subfolders(references)} | available
    missing = [case for case in predicted if case not in available]
    if missing:
        names = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        msg = f"{len(missing)} of {len(predicted)} predictions have no reference of their name in {references}: {names}"
        msg += explain_dicom(references)
        raise EvaluationError(msg)
    of_predictions, of_references = (place if place.is_dir() else place.parent for place in (predictions, references))
    for case in sorted(predicted):
        yield case, of_predictions / predicted[case], of_references / available[case]


def list_unpaired(predictions: Path, references: Path) -> list[str]:
    """Lists the cases whose reference has no prediction."""
    predicted = _list_label_maps(predictions)
    return [case for case in _list_label_maps(references) if case not in predicted]


def _list_label_maps(place: Path) -> dict[str, str]:
    """Lists the names of files by those of cases."""
    if place.is_file():
        return {strip_label_map_ending(place.name): place.name}
    if not place.is_dir():
        msg = f"no folder or file at {place}"
        raise EvaluationError(msg)
    found: dict[str, str] = {}
    for file_name in sorted(path.name for path in place.iterdir()):
        lower = file_name.lower()
        if lower.endswith(READABLE_ENDINGS) and not lower.endswith(RESULT_ENDINGS) and not lower.startswith("."):
            name = strip_label_map_ending(file_name)
            if name in found and _may_be_two_label_maps(found[name], file_name):
                msg = f"{place} holds {found[name]} and {file_name}, which may differ; keep one of them"
                raise EvaluationError(msg)
            found[name] = file_name
    return found


def _may_be_two_label_maps(first: str, second: str) -> bool:
    """Returns whether either file may be meant: not beside a JPEG, which holds no labels, or an image of 3D Slicer, the
    name of whose segmentation tells what it is."""
    is_jpeg = any(find_ending(name) in LOSSY_ENDINGS for name in (first, second))
    return strip_ending(first) == strip_ending(second) and are_two_volumes(first, second) and not is_jpeg


def _check_values(volume: LabelVolume, labels: LabelScheme, path: Path) -> None:
    unknown = labels.find_unknown_values(volume.array)
    if unknown:
        known = ", ".join(str(value) for value in sorted(labels.file_values))
        found = ", ".join(str(value) for value in unknown)
        msg = f"{path}: expected the run's label values {known}, found {found}"
        raise EvaluationError(msg)
