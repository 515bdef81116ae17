"""Describes unfinished folds and how to finish them."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import quote_path
from autoseg.processes.progress import format_duration
from autoseg.workflows.folds.status import FoldStatus


def describe_unfinished(status: FoldStatus) -> str:
    """Describes how far an unfinished fold is."""
    return f"{status.configuration}, fold {status.fold}: {_describe_state(status)}{_describe_rest(status)}"


def advise_on_unfinished(run_root: Path, statuses: Sequence[FoldStatus]) -> str:
    """Describes how to get finished folds: wait for running ones, else continue started ones, else train.

    Args:
        run_root: Run folder.
        statuses: Status of each fold, none of which is finished.
    """
    running = [status for status in statuses if status.is_running]
    if running:
        waited = "; ".join(f"{status.configuration}, fold {status.fold}" for status in running)
        return (
            f"wait until this is finished: {waited} (autoseg status {quote_path(run_root)} --watch shows how far it is)"
        )
    started = [status for status in statuses if status.state != "waiting"]
    if started:
        names = dict.fromkeys(status.configuration for status in started)
        return "continue with: " + " ; ".join(
            f"autoseg train {quote_path(run_root)} --configuration {name} "
            + " ".join(f"--fold {status.fold}" for status in started if status.configuration == name)
            for name in names
        )
    return f"train with: autoseg train {quote_path(run_root)} --configuration {statuses[0].configuration}"


def _describe_state(status: FoldStatus) -> str:
    end = "" if status.end_epoch is None else f" of {status.end_epoch}"
    if status.state == "interrupted" and status.reason is not None:
        return f"was interrupted: {status.reason}"
    if status.state == "interrupted" and status.is_trained:
        return "is trained, but its validation was interrupted"
    if status.state == "interrupted":
        return f"was interrupted after epoch {status.epochs_done}{end}" if status.epochs_done else "was interrupted"
    texts = {
        "preparing": "is being prepared for training",
        "training": f"is being trained, epoch {status.epochs_done + 1}{end}",
        "validating": f"is being validated, {status.cases_done} of {status.cases} cases are done",
        "failed": f"failed: {status.reason}",
        "finished": "is finished",
    }
    return texts.get(status.state, "was never trained")


def _describe_rest(status: FoldStatus) -> str:
    if not status.is_running:
        return ""
    left = "" if status.remaining_seconds is None else f", {format_duration(status.remaining_seconds)} left"
    return f"{left} (process {status.pid}, {status.device})"
