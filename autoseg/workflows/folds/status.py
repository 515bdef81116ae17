"""Reads the status of every training of a run from its files, from any process and at any time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import MOST_RESULT_BYTES, parse_part, read_document
from autoseg.errors import DocumentError
from autoseg.files.checksums import FileVersion, find_present_version
from autoseg.inference.folds import find_trained_folds
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.places.place import TaskState
from autoseg.plan.document import Plan
from autoseg.processes.fold_lock import LockHolder, find_holder
from autoseg.remote.mirror import is_set_aside
from autoseg.run_folder import ALL_CASES, FoldFolder, RunFolder, open_run
from autoseg.training.monitoring.history import read_last_record
from autoseg.untrusted.json_reading import read_json
from autoseg.validation_conditions import ValidationConditions, list_limits
from autoseg.workflows.folds.state import KILLED_RESTART, Phase, TrainingState, read_state

FoldState = Literal[
    "waiting", "queued", "preparing", "training", "validating", "interrupted", "lost", "failed", "finished"
]
STATES_OF_WORK: Final[dict[Phase | None, FoldState]] = {"training": "training", "validating": "validating"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldStatus:
    """Status of one training.

    Attributes:
        configuration: Name of the configuration.
        fold: Name of the fold.
        state: "interrupted" means that it was started, is not finished, and no process works on it; "queued", that it
            waits for a scheduler; "lost", that its job ended without a word.
        device: Device on which it runs or last ran.
        pid: Process that works on it.
        epochs_done: Number of finished epochs.
        end_epoch: Number of epochs at the end of the training; None while unknown.
        remaining_seconds: Remaining time of the training or validation.
        train_loss: Training loss of the last epoch.
        validation_loss: Validation loss of the last epoch.
        pseudo_dice: Moving average of the pseudo Dice.
        dice: Mean Dice over classes of the validation on whole volumes.
        cases_done: Number of held-out cases that are predicted, of `cases`.
        cases: Number of held-out cases.
        reason: Reason of a failure, or of an interruption that is no usual one.
        warnings: Remarks on the scores: a short training, a limited validation.
        is_trained: Whether the final model exists, validated or not.
    """

    configuration: str
    fold: str
    state: FoldState
    device: str | None = None
    pid: int | None = None
    epochs_done: int = 0
    end_epoch: int | None = None
    remaining_seconds: float | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    pseudo_dice: float | None = None
    dice: float | None = None
    cases_done: int = 0
    cases: int = 0
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    is_trained: bool = False

    @property
    def is_running(self) -> bool:
        """Whether a process works on it."""
        return self.state in {"preparing", "training", "validating"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationChoice:
    """A validation, reduced where necessary to fit into a time.

    Attributes:
        cases: Cases that are predicted and evaluated.
        held_out_cases: Number of all held-out cases.
        options: Options of the prediction.
        seconds: Estimated duration.
        whole_seconds: Estimated duration of a whole validation.
    """

    cases: tuple[str, ...]
    held_out_cases: int
    options: PredictionOptions = DEFAULT_OPTIONS
    seconds: float = 0.0
    whole_seconds: float = 0.0

    @property
    def limits(self) -> tuple[str, ...]:
        """Describes how it is reduced; empty for a whole validation."""
        return list_limits(
            mirroring=self.options.mirroring,
            step_fraction=self.options.step_fraction,
            cases=len(self.cases),
            held_out_cases=self.held_out_cases,
        )

    def is_better_than(self, other: "ValidationChoice") -> bool:
        """Whether it is reduced less: compares mirroring first, then overlap, then the number of cases."""
        return self._rank > other._rank

    @property
    def _rank(self) -> tuple[bool, float, int]:
        return self.options.mirroring, -self.options.step_fraction, len(self.cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Result of a validation on whole volumes.

    Attributes:
        dice: Mean Dice over classes; None if it is undefined for all of them.
        choice: The reduction of the validation, if it was reduced.
        warnings: Remarks on the result.
    """

    dice: float | None
    choice: ValidationChoice
    warnings: tuple[str, ...] = ()


def read_run_status(run_root: Path) -> tuple[FoldStatus, ...]:
    """Reads the status of every planned configuration and fold; of the fold "all" only where it was started.

    For a run without splits, of imported models or of which only what predicts was copied, its models count as
    finished folds.

    Raises:
        RunError: There is no run.
        DocumentError: Its plan or splits cannot be read.
    """
    return read_statuses(open_run(run_root))


def read_statuses(run: RunFolder) -> tuple[FoldStatus, ...]:
    """Reads the same of a run that was opened, as often as wanted.

    Raises:
        DocumentError: Its plan or splits cannot be read.
    """
    plan = read_document(run.plan, Plan)
    if not run.splits.is_file():
        return tuple(
            FoldStatus(configuration=name, fold=fold, state="finished")
            for name in plan.configurations
            for fold in find_trained_folds(run, name)
        )
    splits = read_document(run.splits, Splits)
    return tuple(
        read_fold_status(run, name, fold, cases=select_fold(splits, fold).validation)
        for name in plan.configurations
        for fold in (*map(str, range(len(splits.folds))), ALL_CASES)
        if fold != ALL_CASES or _is_begun(run.fold(name, fold))
    )


def _is_begun(folder: FoldFolder) -> bool:
    return folder.root.is_dir() or is_set_aside(folder.final_checkpoint)


def read_fold_status(run: RunFolder, configuration: str, fold: str, *, cases: Sequence[str]) -> FoldStatus:
    """Reads the status of one training, whose validation must cover the given cases."""
    folder = run.fold(configuration, fold)
    holder, state, record = find_holder(folder), read_state(folder), read_last_record(folder.training_log)
    validation = read_validation(folder, cases)
    is_finished = has_final_model(folder) and (fold == ALL_CASES or validation is not None)
    now = _find_state(folder, holder=holder, state=state, is_finished=is_finished)
    reason = state.reason if state is not None and now == "failed" else None
    if holder is None and is_set_aside(folder.final_checkpoint):
        now, reason = "interrupted", KILLED_RESTART
    return FoldStatus(
        configuration=configuration,
        fold=fold,
        state=now,
        device=_find_device(holder, state),
        pid=None if holder is None else holder.pid,
        epochs_done=0 if record is None else record.epoch + 1,
        end_epoch=None if state is None else state.end_epoch,
        remaining_seconds=None if state is None or holder is None else state.remaining_seconds,
        train_loss=None if record is None else record.train_loss,
        validation_loss=None if record is None else record.validation_loss,
        pseudo_dice=None if record is None else record.moving_average,
        dice=None if validation is None else validation.dice,
        cases_done=0 if state is None else state.cases_done,
        cases=0 if state is None else state.cases,
        reason=reason,
        warnings=_find_warnings(validation, state),
        is_trained=has_final_model(folder),
    )


def apply_task_state(status: FoldStatus, task: TaskState) -> FoldStatus:
    """Adds what the place of a training knows of it to what its files tell."""
    if task.phase == "finished":
        return status
    if task.phase == "running":
        return replace(status, state=status.state if status.is_running else "preparing", device=task.where)
    if task.phase == "stopped":
        return replace(status, reason=task.reason)
    return replace(status, state=task.phase, reason=task.reason)


def has_final_model(folder: FoldFolder) -> bool:
    """Whether training has finished, and was not resumed since."""
    return folder.final_checkpoint.is_file() and not folder.latest_checkpoint.exists()


def read_validation(folder: FoldFolder, cases: Sequence[str]) -> Validation | None:
    """Reads the result of a validation; None unless it covers all given cases, or those that a budget left."""
    found = _find_scores(folder.summary)
    if found is None:
        return None
    validated, dice, conditions = found.cases, found.dice, found.conditions
    if conditions is None:
        whole = ValidationChoice(cases=validated, held_out_cases=len(validated))
        return Validation(dice=dice, choice=whole) if validated == tuple(cases) else None
    choice = ValidationChoice(
        cases=validated,
        held_out_cases=len(cases),
        options=PredictionOptions(mirroring=conditions.mirroring, step_fraction=conditions.step_fraction),
    )
    counts = (conditions.validated_cases, conditions.held_out_cases)
    covers = counts == (len(validated), len(cases)) and is_selection(validated, cases)
    return Validation(dice=dice, choice=choice, warnings=conditions.list_warnings()) if covers else None


@dataclass(frozen=True, slots=True)
class _Scores:
    """The part of a summary that does not grow with its metrics."""

    cases: tuple[str, ...]
    dice: float | None
    conditions: ValidationConditions | None


def _find_scores(path: Path) -> _Scores | None:
    """Finds the scores of a summary, whose file is read once for each version of it."""
    try:
        version = find_present_version(path)
    except OSError:  # it is missing, or is removed just now
        return _read_scores(path)  # which asks a network drive again
    return _read_scores(path) if version.is_recent else _remember_scores(version)


@lru_cache(maxsize=64)
def _remember_scores(version: FileVersion) -> _Scores | None:
    return _read_scores(version.path)


def _read_scores(path: Path) -> _Scores | None:
    """Reads the scores, without the metrics of the cases; None if the file is missing or has another form."""
    try:
        content = read_json(path, most_bytes=MOST_RESULT_BYTES, leaves_out=("metrics",))
        cases = tuple(entry["case"] for entry in content["metric_per_case"])
        made = content.get("validation")
        return _Scores(
            cases=cases,
            dice=content["foreground_mean"]["Dice"],
            conditions=None if made is None else parse_part(made, ValidationConditions, where=path.name),
        )
    except (DocumentError, KeyError, TypeError):
        return None


def is_selection(chosen: Sequence[str], cases: Sequence[str]) -> bool:
    """Whether `chosen` holds some or all of the cases, in their order."""
    wanted = set(chosen)
    return list(chosen) == [case for case in cases if case in wanted]


def _find_warnings(validation: Validation | None, state: TrainingState | None) -> tuple[str, ...]:
    if validation is not None:
        return validation.warnings
    return () if state is None or state.warning is None else (state.warning,)


def _find_device(holder: LockHolder | None, state: TrainingState | None) -> str | None:
    if holder is not None:
        return holder.device
    return None if state is None else state.device


def _find_state(
    folder: FoldFolder, *, holder: LockHolder | None, state: TrainingState | None, is_finished: bool
) -> FoldState:
    phase = None if state is None else state.phase
    if holder is not None:
        return STATES_OF_WORK.get(phase, "preparing")
    if phase == "failed":
        return "failed"
    if is_finished:
        return "finished"
    return "interrupted" if folder.root.is_dir() else "waiting"
