"""Collects the cross-validation of a run once every fold of a configuration is trained and validated."""

from pathlib import Path

from autoseg.dataset.folds import Splits
from autoseg.document import read_document
from autoseg.evaluation.crossvalidation import (
    CrossValidation,
    score_configuration,
    write_crossvalidation,
)
from autoseg.evaluation.summary import EvaluationSummary, combine_distance_units, list_class_keys
from autoseg.plan.document import Plan
from autoseg.run_folder import RunFolder, open_run
from autoseg.workflows.folds.status import has_final_model, read_validation


def collect_crossvalidation(run_root: Path) -> CrossValidation | None:
    """Scores every configuration whose folds are all validated, and writes crossvalidation.json and .csv.

    Returns None, and writes nothing, if there is no such configuration.

    Raises:
        RunError: There is no run, or it cannot be written.
        DocumentError: A summary cannot be read.
    """
    run = open_run(run_root)
    plan, splits = read_document(run.plan, Plan), read_document(run.splits, Splits)
    complete = [name for name in plan.configurations if _is_complete(run, name, splits)]
    if not complete:
        return None
    summaries = {name: _read_summaries(run, name, splits) for name in complete}
    units = (summary.distance_unit for folds in summaries.values() for summary in folds.values())
    names = dict(zip(list_class_keys(plan.labels), plan.labels.class_names, strict=True))
    result = CrossValidation(
        class_names=names,
        distance_unit=combine_distance_units(units),
        configurations={name: score_configuration(folds) for name, folds in summaries.items()},
    )
    write_crossvalidation(run.crossvalidation_json, run.crossvalidation_csv, result)
    return result


def _is_complete(run: RunFolder, configuration: str, splits: Splits) -> bool:
    folders = (run.fold(configuration, str(index)) for index in range(len(splits.folds)))
    pairs = zip(folders, splits.folds, strict=True)
    return all(
        has_final_model(folder) and read_validation(folder, fold.validation) is not None for folder, fold in pairs
    )


def _read_summaries(run: RunFolder, configuration: str, splits: Splits) -> dict[str, EvaluationSummary]:
    names = [str(index) for index in range(len(splits.folds))]
    return {name: read_document(run.fold(configuration, name).summary, EvaluationSummary) for name in names}
