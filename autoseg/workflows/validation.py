"""Whole-volume validation of one training: predicts its held-out cases and scores them on their own grids."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from autoseg.document import read_document
from autoseg.errors import DocumentError
from autoseg.evaluation.summary import SUMMARY_JSON, EvaluationSummary
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.preprocessing.cache import open_case
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder, make_folder
from autoseg.volume_io import label_map_ending, write_label_map
from autoseg.workflows.evaluation import EvaluationJob, evaluate_jobs
from autoseg.workflows.preprocessing import check_preprocessed
from autoseg.workflows.references import find_reference


def validate_fold(
    run: RunFolder, configuration: str, fold: str, *, cases: Sequence[str], device: str, progress: Progress
) -> EvaluationSummary:
    """Predicts the cases that are not yet predicted, and evaluates all of them.

    Raises:
        RunError: A preprocessed case or reference is missing.
    """
    folder = make_folder(run.fold(configuration, fold).validation)
    finished = read_finished_summary(folder, cases)
    if finished is not None:
        return finished
    model = load_model(run, configuration=configuration, folds=(fold,), device=device)
    check_preprocessed(run, model.plan, model.configuration_plan.data_of, cases)
    ending = label_map_ending(model.plan.file_ending)
    outputs = {case: folder / f"{case}{ending}" for case in cases}
    waiting = [case for case in cases if not outputs[case].is_file()]
    work = _predict_each(run, model, waiting, outputs=outputs, progress=progress)
    for _ in progress.track(work, label="Validating", total=len(waiting), unit="case"):
        pass
    jobs = [
        EvaluationJob(
            case=case, prediction=outputs[case], reference=find_reference(run, case), labels=model.plan.labels
        )
        for case in cases
    ]
    return evaluate_jobs(jobs, folder=folder, progress=progress)


def read_finished_summary(folder: Path, cases: Sequence[str]) -> EvaluationSummary | None:
    """The summary of an earlier validation, if it is complete."""
    try:
        summary = read_document(folder / SUMMARY_JSON, EvaluationSummary)
    except DocumentError:
        return None
    return summary if [entry.case for entry in summary.metric_per_case] == list(cases) else None


def _predict_each(
    run: RunFolder, model: SegmentationModel, cases: Sequence[str], *, outputs: dict[str, Path], progress: Progress
) -> Iterator[str]:
    data = run.preprocessed(model.configuration_plan.data_of)
    for name in cases:
        case = open_case(data, name)
        logits = model.predict_preprocessed(case.image[:], on_window=partial(progress.show_part, name))
        label_map = model.restore_label_map(logits, case.geometry)
        write_label_map(outputs[name], label_map, grid=case.geometry.grid, like=find_reference(run, name))
        yield name
