"""Lists the units to train in a run: a unit is one fold of one configuration, trained by one command."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.dataset.folds import Splits, select_fold
from autoseg.dataset.label_entries import warn_of_region_order
from autoseg.document import read_document
from autoseg.errors import DocumentError, PlanError, TrainingError, quote_path
from autoseg.plan.document import Plan
from autoseg.processes.progress import Progress
from autoseg.run_folder import ALL_CASES, FoldFolder, RunFolder, open_run
from autoseg.training.options import Length
from autoseg.workflows.cascade import list_stale_folds
from autoseg.workflows.folds.state import find_restart_mark
from autoseg.workflows.folds.status import FoldStatus, has_final_model, read_fold_status, read_validation
from autoseg.workflows.plan.preprocessing import check_has_data, check_preprocessed
from autoseg.workflows.train.request import TrainingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One fold of one configuration.

    Attributes:
        configuration: Name of the configuration.
        fold: Name of the fold.
        cases: Held-out cases.
        needs: Configuration whose folds must be trained first.
        is_only_needed: It was not requested, but is the previous stage of a requested one.
    """

    configuration: str
    fold: str
    cases: tuple[str, ...]
    needs: str | None = None
    is_only_needed: bool = False

    @property
    def name(self) -> str:
        """Returns the name for messages."""
        return f"{self.configuration}, fold {self.fold}"

    def read_status(self, run: RunFolder) -> FoldStatus:
        """Reads the status of the unit."""
        return read_fold_status(run, self.configuration, self.fold, cases=self.cases)


def list_units(run_root: Path, request: TrainingRequest, *, progress: Progress) -> tuple[Unit, ...]:
    """Lists the requested configurations and folds, in an order in which they can be trained.

    Configurations add all folds of their previous stages, because every case is predicted by the fold that held it
    out. A single unit stays alone: its training also trains the previous stage.

    A configuration that was not named is left out, with a note, if it is not preprocessed.

    Raises:
        RunError: There is no run, its models were imported, or a named configuration is not preprocessed.
        PlanError: The configuration is not planned.
        TrainingError: A fold does not exist, the configuration cannot be trained, or nothing can.
    """
    run = open_run(run_root)
    plan = read_document(run.plan, Plan)
    check_has_data(run, plan)
    for warning in warn_of_region_order(plan.labels):
        progress.note(warning)
    splits = read_document(run.splits, Splits)
    if request.configuration is None:
        names = _find_trainable(run, plan, splits, progress)
    else:
        names = [request.configuration]
        plan.get_configuration(request.configuration)
        _check_preprocessed(run, plan, request.configuration, splits)
    every = tuple(str(index) for index in range(len(splits.folds)))
    folds = request.folds or every
    needed = _find_needed(plan, names) if len(names) * len(folds) > 1 else frozenset()
    named = set(names)
    names = [*sorted(needed - named, key=lambda name: (len(plan.list_stages(name)), name)), *names]
    return tuple(
        Unit(
            configuration=name,
            fold=fold,
            cases=select_fold(splits, fold).validation,
            needs=plan.configurations[name].previous_configuration,
            is_only_needed=name not in named,
        )
        for name in names
        for fold in (every if name in needed else folds)
    )


def _find_needed(plan: Plan, names: Sequence[str]) -> frozenset[str]:
    """Finds the stages before the given configurations."""
    return frozenset(stage for name in names for stage in plan.list_stages(name)[:-1])


def is_up_to_date(run: RunFolder, unit: Unit, request: TrainingRequest) -> bool:
    """Whether a unit is trained and validated by the current plan, and the request changes nothing about it."""
    folder = run.fold(unit.configuration, unit.fold)
    is_special = request.length != Length() or request.restart or request.seed is not None
    is_special = is_special or request.initial_weights is not None or request.synthetic or request.teacher is not None
    is_special = (is_special and not unit.is_only_needed) or find_restart_mark(folder).exists()
    if is_special or not has_final_model(folder):
        return False
    if unit.fold != ALL_CASES and not _is_validated(folder, unit, request):
        return False
    try:
        used, plan = read_document(folder.plan, Plan), read_document(run.plan, Plan)
    except DocumentError:
        return False
    same = used.labels == plan.labels and used.channels == plan.channels
    if not same or used.configurations.get(unit.configuration) != plan.configurations[unit.configuration]:
        return False
    splits = read_document(run.splits, Splits)
    return not list_stale_folds(run, plan, splits, configuration=unit.configuration, folds=(unit.fold,))


def _is_validated(folder: FoldFolder, unit: Unit, request: TrainingRequest) -> bool:
    """Whether the unit is validated; a reduced validation counts only if the plan's own budget limited it."""
    validation = read_validation(folder, unit.cases)
    if validation is None or not validation.choice.limits:
        return validation is not None
    try:
        training = read_document(folder.plan, Plan).get_configuration(unit.configuration).training
    except (DocumentError, PlanError):
        return False
    return request.budget_seconds is None and training.budget_seconds is not None


def limit_request(request: TrainingRequest, unit: Unit) -> TrainingRequest:
    """Limits a request to what applies to a unit: units that were not named are neither extended nor restarted, and do
    not begin with a checkpoint, which has the weights of one configuration, nor are they trained on synthetic cases."""
    if not unit.is_only_needed:
        return request
    source = request.initial_weights
    initial = source if source is not None and source.is_dir() else None
    length = replace(request.length, more_epochs=None)
    return replace(request, restart=False, length=length, initial_weights=initial, synthetic=False)


def list_arguments(request: TrainingRequest) -> list[str]:
    """Lists the options of `autoseg train` that express a request, without those that the queue sets."""
    length = request.length
    options: list[tuple[str, object]] = [
        ("--epochs", length.epochs),
        ("--extend", length.more_epochs),
        ("--until-plateau", length.until_plateau),
        ("--budget", None if request.budget_seconds is None else f"{request.budget_seconds:.3f}s"),
        ("--precision", request.precision),
        ("--seed", request.seed),
        ("--restart", request.restart),
        ("--init", request.initial_weights),
        ("--synthetic", request.synthetic),
        ("--teacher", request.teacher),
        ("--deterministic", request.deterministic),
        *(("--log-to", name) for name in request.log_to),
    ]
    return [word for flag, value in options for word in _format_option(flag, value)]


def _format_option(flag: str, value: object) -> list[str]:
    if value is None or value is False:
        return []
    return [flag] if value is True else [flag, str(value)]


def _find_trainable(run: RunFolder, plan: Plan, splits: Splits, progress: Progress) -> list[str]:
    """Finds the planned configurations that can be trained, each after its previous stage."""
    order = sorted(plan.configurations, key=lambda name: len(plan.list_stages(name)))
    problems = {name: _find_problem(run, plan, splits, name) for name in order}
    for name, problem in problems.items():
        if problem is not None:
            progress.note(f"{name} is left out: {problem}")
    names = [name for name, problem in problems.items() if problem is None]
    if not names:
        msg = f"no configuration of {run.root} can be trained:\n" + "\n".join(
            f"  - {name}: {problem}" for name, problem in problems.items()
        )
        raise TrainingError(msg)
    return names


def _find_problem(run: RunFolder, plan: Plan, splits: Splits, name: str) -> str | None:
    data = plan.configurations[name].data_of
    if not run.preprocessed(data).is_dir():
        return f"it is not preprocessed (autoseg preprocess {quote_path(run.root)} --configuration {data})"
    _check_preprocessed(run, plan, name, splits)
    return None


def _check_preprocessed(run: RunFolder, plan: Plan, name: str, splits: Splits) -> None:
    cases: Sequence[str] = select_fold(splits, ALL_CASES).training
    check_preprocessed(run, plan, plan.configurations[name].data_of, cases)
