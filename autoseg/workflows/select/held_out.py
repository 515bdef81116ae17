"""Predictions of the finished folds of a run for the cases that they held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document
from autoseg.errors import SelectionError, describe_folds, merge_by_fold, quote_path
from autoseg.evaluation.crossvalidation import Score, Table
from autoseg.evaluation.summary import EvaluationSummary, MetricValues
from autoseg.file_endings import label_map_ending
from autoseg.inference.folds import find_folds
from autoseg.inference.model import read_common_plan
from autoseg.plan.document import Plan
from autoseg.processes.fold_lock import lock_fold
from autoseg.processes.progress import Progress
from autoseg.run_folder import ALL_CASES, RunFolder
from autoseg.workflows.cascade import list_stale_folds
from autoseg.workflows.evaluate.validation import validate_fold
from autoseg.workflows.folds.status import has_final_model, read_fold_status, read_validation
from autoseg.workflows.folds.unfinished import advise_on_unfinished, describe_unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The held-out predictions of one configuration.

    Attributes:
        plan: Plan of its trainings.
        folds: Folds that are trained and validated.
        holders: Fold that held out each case, by case; the first one, if there are several.
        warnings: Remarks on the folds, for example that one was trained briefly.
    """

    configuration: str
    plan: Plan
    folds: tuple[str, ...]
    holders: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def find_label_map(self, run: RunFolder, case: str) -> Path:
        """Returns the path of the prediction of a case."""
        folder = run.fold(self.configuration, self.holders[case]).validation
        return folder / f"{case}{label_map_ending(self.plan.file_ending)}"

    def read_metrics(self, run: RunFolder, cases: Sequence[str]) -> list[Mapping[str, MetricValues]]:
        """The scores of some cases, by class key."""
        found: dict[str, Mapping[str, MetricValues]] = {}
        for fold in self.folds:
            summary = read_document(run.fold(self.configuration, fold).summary, EvaluationSummary)
            for entry in summary.metric_per_case:
                if self.holders[entry.case] == fold:
                    found[entry.case] = entry.metrics
        return [found[case] for case in cases]


def find_held_out(
    run: RunFolder, *, configurations: Sequence[str] | None, folds: Sequence[str] | None
) -> tuple[HeldOut, ...]:
    """Every configuration that has finished folds, in the order of the plan.

    Args:
        run: Run with splits.
        configurations: Wanted configurations, each of which must have finished folds; None for all.
        folds: Folds that may be used; None for all.

    Raises:
        PlanError: The plan does not have a wanted configuration.
        TrainingError: There is no such fold.
        SelectionError: Nothing, or something that is wanted, is not trained and validated, or only finds boxes; or
            labels differ.
        PredictionError: The folds of a configuration follow different plans.
    """
    if not run.splits.is_file():
        msg = (
            f"{run.root} has no splits.json, so nobody knows which cases its folds held out (imported models do not "
            f"tell); select works on runs that autoseg trained"
        )
        raise SelectionError(msg)
    plan, splits = read_document(run.plan, Plan), read_document(run.splits, Splits)
    names = list_compared(plan, configurations)
    wanted = _check_folds(folds, splits)
    found = {name: [fold for fold in wanted if _is_finished(run, name, fold, splits)] for name in names}
    lacking = [name for name in names if not found[name]]
    if len(lacking) == len(names) or (lacking and configurations is not None):
        raise SelectionError(_explain_lack(run, lacking, wanted, splits))
    for name in names:
        _check_predictions(run, plan, splits, configuration=name, folds=found[name])
    result = tuple(_describe(run, name, found[name], splits) for name in names if found[name])
    _check_labels(result)
    return result


def list_compared(plan: Plan, configurations: Sequence[str] | None) -> tuple[str, ...]:
    """Lists the wanted configurations in the order of the plan; None: all that segment.

    Raises:
        PlanError: The plan does not have a wanted configuration.
        SelectionError: One only finds boxes.
    """
    segmenting = plan.list_segmenting()
    for name in configurations or ():
        plan.get_configuration(name)
        if name not in segmenting:
            msg = (
                f"{name} finds boxes and segments nothing, so it is not compared; name configurations out of "
                f"{', '.join(segmenting)}, or none"
            )
            raise SelectionError(msg)
    return tuple(name for name in segmenting if configurations is None or name in configurations)


def complete_validations(
    run: RunFolder,
    *,
    configurations: Sequence[str] | None,
    folds: Sequence[str] | None,
    device: str,
    progress: Progress,
) -> bool:
    """Makes whole what a budget has limited of the validations that will be compared; tells whether there was any.

    Only validations of the same kind can be compared, and what is selected is to predict with mirrored views.

    Args:
        run: A run.
        configurations: None for all that are planned.
        folds: None for all.
        device: Device that predicts.
        progress: Progress display.

    Raises:
        PlanError: The plan does not have a wanted configuration.
        SelectionError: A wanted configuration only finds boxes.
        TrainingError: There is no such fold, or somebody trains it.
        RunError: A preprocessed case or reference is missing.
    """
    if not run.splits.is_file():
        return False
    is_changed = False
    plan, splits = read_document(run.plan, Plan), read_document(run.splits, Splits)
    names = list_compared(plan, configurations)
    for name, fold in ((name, fold) for name in names for fold in _check_folds(folds, splits)):
        folder, cases = run.fold(name, fold), select_fold(splits, fold).validation
        found = read_validation(folder, cases) if has_final_model(folder) else None
        if found is None or not found.choice.limits:
            continue
        progress.note(
            f"{name}, fold {fold}: its validation was limited by a budget ({'; '.join(found.choice.limits)}); a whole "
            f"one of {len(cases)} cases is made now"
        )
        with lock_fold(folder, device=device):
            validate_fold(run, name, fold, cases=cases, device=device, progress=progress)
        is_changed = True
    return is_changed


def find_common_cases(held_out: Sequence[HeldOut]) -> tuple[str, ...]:
    """Cases that every configuration holds out, sorted.

    Raises:
        SelectionError: There is none.
    """
    common = set.intersection(*(set(entry.holders) for entry in held_out))
    if not common:
        found = "; ".join(f"{entry.configuration}: {describe_folds(entry.folds)}" for entry in held_out)
        msg = (
            f"configurations are compared on cases that all of them hold out, but there is none ({found}); train the "
            f"same folds of each, or name the configurations to be compared with --configuration"
        )
        raise SelectionError(msg)
    return tuple(sorted(common))


def describe_use(held_out: Sequence[HeldOut], cases: Sequence[str]) -> list[str]:
    """Lines for the user: which folds and cases are used, and what is left out."""
    lines = [
        f"{entry.configuration}: {len(entry.holders)} held-out cases of {describe_folds(entry.folds)}"
        for entry in held_out
    ]
    partial = [entry.configuration for entry in held_out if len(entry.holders) > len(cases)]
    lines += [f"warning: {entry.configuration}, {text}" for entry in held_out for text in entry.warnings]
    if partial:
        lines.append(
            f"compared on the {len(cases)} cases that all of them hold out; further cases of {', '.join(partial)} are "
            f"left out"
        )
    return lines


def tabulate(metrics: Sequence[Mapping[str, MetricValues]], keys: Sequence[str], score: Score) -> Table:
    """One score of every case and class; NaN where it is not defined."""
    values = [[getattr(entry[key], score) for key in keys] for entry in metrics]
    return np.array([[np.nan if value is None else value for value in row] for row in values], dtype=np.float64)


def describe_left_out(
    run: RunFolder, held_out: Sequence[HeldOut], *, configurations: Sequence[str] | None, folds: Sequence[str] | None
) -> list[str]:
    """Lines for the user: folds that could have been used, had their training or validation been finished."""
    splits = read_document(run.splits, Splits)
    used = {(entry.configuration, fold) for entry in held_out for fold in entry.folds}
    names = list_compared(read_document(run.plan, Plan), configurations)
    statuses = [
        read_fold_status(run, name, fold, cases=select_fold(splits, fold).validation)
        for name in names
        for fold in _check_folds(folds, splits)
        if (name, fold) not in used
    ]
    return [f"left out: {describe_unfinished(status)}" for status in statuses if status.state != "waiting"]


def _explain_lack(run: RunFolder, lacking: Sequence[str], wanted: Sequence[str], splits: Splits) -> str:
    """Why there is nothing to choose from, fold by fold, and what to do."""
    statuses = [
        read_fold_status(run, name, fold, cases=select_fold(splits, fold).validation)
        for name in lacking
        for fold in wanted
    ]
    begun = [status for status in statuses if status.state != "waiting"]
    others = [
        f"{name}: fold {fold}"
        for name in lacking
        for fold in map(str, range(len(splits.folds)))
        if fold not in wanted and _is_finished(run, name, fold, splits)
    ]
    lines = [
        f"select needs trained and validated folds of {' and '.join(lacking)}, found none among folds "
        f"{', '.join(wanted)} in {run.root}:",
        *(f"  - {describe_unfinished(status)}" for status in begun),
        *(["  - the others were never trained"] if begun and len(begun) < len(statuses) else []),
        *(["  - none was ever trained"] if not begun else []),
        advise_on_unfinished(run.root, statuses),
        *([f"or use what is finished, with --fold: {'; '.join(others)}"] if others else []),
    ]
    return "\n".join(lines)


def _check_folds(folds: Sequence[str] | None, splits: Splits) -> tuple[str, ...]:
    if folds is None:
        return tuple(str(index) for index in range(len(splits.folds)))
    for fold in folds:
        select_fold(splits, fold)
    if ALL_CASES in folds:
        msg = f"the fold {ALL_CASES!r} holds no case out, so nothing can be said about it; name numbered folds"
        raise SelectionError(msg)
    return tuple(sorted(set(folds), key=int))


def _is_finished(run: RunFolder, configuration: str, fold: str, splits: Splits) -> bool:
    folder = run.fold(configuration, fold)
    if not has_final_model(folder):
        return False
    validation = read_validation(folder, select_fold(splits, fold).validation)
    return validation is not None and not validation.choice.limits


def _check_predictions(run: RunFolder, plan: Plan, splits: Splits, *, configuration: str, folds: Sequence[str]) -> None:
    previous = plan.configurations[configuration].previous_configuration
    if previous is not None and folds:
        find_folds(run, previous, tuple(folds))  # refuses now what selecting and predicting would need
    stale = list_stale_folds(run, plan, splits, configuration=configuration, folds=folds)
    if stale:
        msg = (
            f"{configuration} was trained on predictions of {previous}, which was trained again since (fold "
            f"{', '.join(stale)}): train it again with: autoseg train {quote_path(run.root)} --configuration "
            f"{configuration} --restart, or name other configurations with --configuration"
        )
        raise SelectionError(msg)


def _describe(run: RunFolder, configuration: str, folds: Sequence[str], splits: Splits) -> HeldOut:
    holders: dict[str, str] = {}
    for fold in folds:
        for case in select_fold(splits, fold).validation:
            holders.setdefault(case, fold)
    plan = read_common_plan([run.fold(configuration, fold) for fold in folds], configuration)
    found = {
        fold: read_validation(run.fold(configuration, fold), select_fold(splits, fold).validation) for fold in folds
    }
    warnings = merge_by_fold((fold, text) for fold, result in found.items() if result for text in result.warnings)
    return HeldOut(
        configuration=configuration, plan=plan, folds=tuple(folds), holders=holders, warnings=tuple(warnings)
    )


def _check_labels(held_out: Sequence[HeldOut]) -> None:
    first = held_out[0]
    for entry in held_out[1:]:
        if entry.plan.labels != first.plan.labels:
            msg = (
                f"only models of the same labels can be compared, but {entry.configuration} and {first.configuration} "
                f"were trained on different ones; name one of them with --configuration, or train it again"
            )
            raise SelectionError(msg)
