"""Finds the configuration and the folds of a run to predict with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from autoseg.document import read_document
from autoseg.errors import PredictionError, quote_path
from autoseg.plan.document import PREFERRED_CONFIGURATIONS, Plan
from autoseg.remote.mirror import is_set_aside, list_set_aside
from autoseg.run_folder import ALL_CASES, FoldFolder, RunFolder

FOLD_PREFIX: Final = "fold_"


def find_configuration(run: RunFolder, plan: Plan, wanted: str | None) -> str:
    """Returns the configuration to predict with: the wanted one or, for None, the trained one.

    If several are trained, the first of `PREFERRED_CONFIGURATIONS` is taken, else the first of the plan; what refines
    its predictions, whatever the name, comes before it. One that only finds boxes is taken only if it is wanted.

    Raises:
        PlanError: The plan does not have the wanted one.
        PredictionError: No training is finished.
    """
    if wanted is not None:
        plan.get_configuration(wanted)
        return wanted
    order = sorted(plan.list_segmenting(), key=_rank)
    trained = [name for name in order if find_trained_folds(run, name)]
    if not trained:
        raise PredictionError(_describe_untrained(run, order))
    stages = [plan.list_stages(name) for name in trained]
    return max((names for names in stages if trained[0] in names), key=len)[-1]


def select_previous_folds(folds: Sequence[str] | None) -> tuple[str, ...] | None:
    """Selects the folds of the previous stage for the requested ones of a configuration; None for every trained one."""
    return tuple(fold for fold in folds or () if fold != ALL_CASES) or None


def find_folds(run: RunFolder, configuration: str, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the folds whose networks are averaged: the wanted ones, after a check, or all trained ones.

    By default, the fold "all" (one network that was trained on all cases) is used only if no numbered fold is trained.

    Raises:
        PredictionError: A wanted fold, or every fold, is not fully trained.
    """
    trained = find_trained_folds(run, configuration)
    if wanted is None:
        if not trained:
            raise PredictionError(_describe_untrained(run, [configuration]))
        return tuple(fold for fold in trained if fold != ALL_CASES) or trained
    if not wanted:
        msg = "name at least one fold, or none at all for every trained one; found an empty list"
        raise PredictionError(msg)
    missing = [fold for fold in wanted if fold not in trained]
    if missing:
        raise PredictionError(_describe_missing(run, configuration, missing, trained))
    return tuple(dict.fromkeys(wanted))


def find_trained_folds(run: RunFolder, configuration: str) -> tuple[str, ...]:
    """Lists the folds with a final checkpoint, sorted."""
    folders = run.configuration_models(configuration).glob(f"{FOLD_PREFIX}*")
    names = (folder.name.removeprefix(FOLD_PREFIX) for folder in folders)
    return tuple(sorted(name for name in names if run.fold(configuration, name).final_checkpoint.is_file()))


def is_imported_run(run: RunFolder, plan: Plan) -> bool:
    """Returns whether a run has only models that were imported, and neither folds nor training data."""
    return (plan.is_imported or run.model_record.exists()) and not run.splits.exists()


def _rank(configuration: str) -> int:
    known = configuration in PREFERRED_CONFIGURATIONS
    return PREFERRED_CONFIGURATIONS.index(configuration) if known else len(PREFERRED_CONFIGURATIONS)


def _describe_missing(run: RunFolder, configuration: str, missing: Sequence[str], trained: Sequence[str]) -> str:
    found = "; ".join(f"fold {fold}: {_describe_files(run.fold(configuration, fold))}" for fold in missing)
    return (
        f"{configuration} needs {run.fold(configuration, missing[0]).final_checkpoint.name} of every wanted fold, "
        f"found {found}; trained are: {', '.join(trained) or 'none'}; "
        f"{_advise(run, configuration, missing[0])}, or leave the fold out"
    )


def _describe_untrained(run: RunFolder, configurations: Sequence[str]) -> str:
    place = run.root.resolve()
    if FoldFolder(place).final_checkpoint.is_file():
        given = f"{run.root} is a fold of a run, not the run; name the run"
        if place.parent.parent.name != "models":
            return f"{given}, in whose folder models/CONFIGURATION/{FOLD_PREFIX}K this fold belongs"
        return f"{given}, {place.parents[2]}, and fold {place.name.removeprefix(FOLD_PREFIX)} beside it"
    started = [
        f"{configuration} {folder.name}: {_describe_files(FoldFolder(folder))}"
        for configuration in configurations
        for folder in _list_begun(run.configuration_models(configuration))
    ]
    return (
        f"no training of {' or '.join(configurations)} is finished in {run.root}, found "
        f"{'; '.join(started) or 'none that was started'}; {_advise(run, configurations[0], '0')}"
    )


def _list_begun(folder: Path) -> list[Path]:
    """Lists the folders of the trainings of a configuration, also of those that are set aside."""
    return sorted({*folder.glob(f"{FOLD_PREFIX}*"), *list_set_aside(folder, FOLD_PREFIX)})


def _describe_files(fold: FoldFolder) -> str:
    names = [path.name for path in (fold.latest_checkpoint, fold.best_checkpoint) if path.is_file()]
    if is_set_aside(fold.final_checkpoint):
        return "an earlier training that a restart has set aside until the new one begins, or the next one after a kill"
    return f"only {' and '.join(names)} (the training has not ended)" if names else "no checkpoint"


def _advise(run: RunFolder, configuration: str, fold: str) -> str:
    if run.model_record.exists() and not run.splits.exists():
        return "this model came in one file, which holds no more: ask for a file that does"
    if run.plan.exists() and is_imported_run(run, read_document(run.plan, Plan)):
        return (
            f"import it from nnU-Net's folder: autoseg import SOURCE {quote_path(run.root)} --configuration "
            f"{configuration} --fold {fold}"
        )
    return f"train with: autoseg train {quote_path(run.root)} --configuration {configuration} --fold {fold}"
