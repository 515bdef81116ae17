"""Shows the trainings of a run in one table: live on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from autoseg.errors import merge_by_fold, quote_path
from autoseg.processes.progress import format_duration

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from autoseg.cli.terminal.console import Console
    from autoseg.workflows.folds.status import FoldStatus
    from autoseg.workflows.train.job import TrainedFold, TrainingOutcome

HEADINGS: Final = ("configuration", "fold", "state", "device", "epoch", "loss", "pseudo Dice", "Dice", "remaining")
SECONDS_BETWEEN_LINES: Final = 10.0  # for each fold; changes of its state are shown immediately


def show_trainings(console: "Console", snapshots: "Iterable[tuple[FoldStatus, ...]]") -> "tuple[FoldStatus, ...]":
    """Shows statuses as they arrive; returns the last ones."""
    if console.is_terminal:
        return _show_live(console, snapshots)
    return _show_lines(console, snapshots)


def show_queue(console: "Console", snapshots: "Iterable[tuple[FoldStatus, ...]]") -> None:
    """Shows statuses as they arrive; if output is not a terminal, also the final table."""
    last = show_trainings(console, snapshots)
    if not console.is_terminal:
        print_trainings(console, last)


def print_trained_fold(console: "Console", trained: "TrainedFold") -> None:
    """Prints where the model of a fold is, its scores and warnings."""
    from autoseg.cli.terminal.reports import print_summary

    console.note(f"\nfold {trained.fold}: model {trained.folder.final_checkpoint}")
    if trained.summary is not None:
        print_summary(console, trained.summary)
        console.note(f"validation in {trained.folder.validation}")
    for warning in trained.warnings:
        console.note(f"warning: {warning}")


def print_training_outcome(console: "Console", outcome: "TrainingOutcome", run: "Path") -> None:
    """Prints the cross-validation, if there is one, and the next command, if no fold failed."""
    from autoseg.cli.terminal.reports import print_crossvalidation

    if not outcome.is_main_process:
        return
    if outcome.crossvalidation is not None:
        print_crossvalidation(console, outcome.crossvalidation)
        console.note(f"written: {run / 'crossvalidation.json'}, {run / 'crossvalidation.csv'}")
    console.note(f"to see it: autoseg report {quote_path(run)}")
    if not outcome.failures:
        console.note(f"next: autoseg predict {quote_path(run)} IMAGES OUT")


def build_table(statuses: "Sequence[FoldStatus]") -> "Table":
    """Builds a table with one row per fold."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Trainings", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in HEADINGS[4:] else "left")
    for status in statuses:
        table.add_row(*(Text(cell) for cell in _list_cells(status)))
    return table


def print_trainings(console: "Console", statuses: "Sequence[FoldStatus]") -> None:
    """Prints the table, the reasons of failures, and warnings about scores."""
    console.show_table(build_table(statuses))
    for line in _list_remarks(statuses):
        console.note(line)


def describe_status(status: "FoldStatus") -> str:
    """Describes a status in one line for a log."""
    where = f" on {status.device}" if status.is_running and status.device else ""
    parts = [f"{status.configuration}, fold {status.fold}: {status.state}{where}"]
    if status.state in {"training", "interrupted"}:
        parts.append(f"epoch {format_epoch(status)}")
    if status.state == "validating":
        parts.append(f"{status.cases_done}/{status.cases} cases")
    if status.state == "training" and status.pseudo_dice is not None:
        parts.append(f"pseudo Dice {status.pseudo_dice:.3f}")
    if status.dice is not None:
        parts.append(f"Dice {status.dice:.3f}")
    if status.remaining_seconds is not None:
        parts.append(f"{format_duration(status.remaining_seconds)} left")
    return ", ".join(parts) + (f": {status.reason}" if status.reason else "")


def format_epoch(status: "FoldStatus") -> str:
    """Formats the running or last finished epoch and the number of all epochs, like 3/1000."""
    end = "" if status.end_epoch is None else f"/{max(status.end_epoch, status.epochs_done)}"
    is_under_way = status.state == "training" and status.epochs_done != status.end_epoch
    return f"{status.epochs_done + (1 if is_under_way else 0)}{end}"


def _show_live(console: "Console", snapshots: "Iterable[tuple[FoldStatus, ...]]") -> "tuple[FoldStatus, ...]":
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    last: tuple[FoldStatus, ...] = ()
    with Live(console=console.rich, auto_refresh=False) as live:
        for last in snapshots:
            live.update(Group(build_table(last), *map(Text, _list_remarks(last))), refresh=True)
    return last


def _show_lines(console: "Console", snapshots: "Iterable[tuple[FoldStatus, ...]]") -> "tuple[FoldStatus, ...]":
    last: tuple[FoldStatus, ...] = ()
    shown: dict[tuple[str, str], tuple[str, float]] = {}
    for last in snapshots:
        for status in last:
            key, now = (status.configuration, status.fold), time.monotonic()
            state, seconds = shown.get(key, ("waiting", now))
            if status.state != state or (status.is_running and now - seconds >= SECONDS_BETWEEN_LINES):
                shown[key] = (status.state, now)
                console.note(describe_status(status))
    return last


def _list_remarks(statuses: "Sequence[FoldStatus]") -> list[str]:
    """Lists reasons of failures and warnings about scores, shown below the table."""
    reasons = [f"{status.configuration}, fold {status.fold}: {status.reason}" for status in statuses if status.reason]
    of_configurations: dict[str, list[tuple[str, str]]] = {}
    for status in statuses:
        remarks = of_configurations.setdefault(status.configuration, [])
        remarks += [(status.fold, warning) for warning in status.warnings]
    warnings = [
        f"warning: {name}, {text}" for name, remarks in of_configurations.items() for text in merge_by_fold(remarks)
    ]
    return reasons + warnings


def _list_cells(status: "FoldStatus") -> list[str]:
    loss = "" if status.train_loss is None else f"{status.train_loss:.3f}"
    if loss and status.validation_loss is not None:
        loss += f" / {status.validation_loss:.3f}"
    return [
        status.configuration,
        status.fold,
        f"validating {status.cases_done}/{status.cases}" if status.state == "validating" else status.state,
        status.device or "",
        format_epoch(status) if status.epochs_done or status.state == "training" else "",
        loss,
        "" if status.pseudo_dice is None else f"{status.pseudo_dice:.3f}",
        "" if status.dice is None else f"{status.dice:.3f}",
        "" if status.remaining_seconds is None else format_duration(status.remaining_seconds),
    ]
