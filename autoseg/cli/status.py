"""`autoseg status`: show the progress of the trainings of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoseg.workflows.folds.status import FoldStatus

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_QUESTIONS = 15.0  # to squeue, which serves all users of a cluster


def status(
    run: Annotated[Path, typer.Argument(help="Run folder made by autoseg plan.")],
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep showing it until every fold is finished (or Ctrl-C).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array and nothing else.")] = False,
) -> None:
    """Show every configuration and fold: state, epoch, remaining time, losses and Dice; from any terminal."""
    from autoseg.cli.terminal.console import UNLIMITED_WIDTH, open_console
    from autoseg.cli.terminal.training_table import print_trainings, show_trainings
    from autoseg.run_folder import open_run
    from autoseg.workflows.folds.jobs import read_watched_status

    if as_json:
        typer.echo(format_status_json(read_watched_status(open_run(run))[0]))
        return
    console = open_console(plain_width=UNLIMITED_WIDTH)
    if watch:
        show_trainings(console, watch_run(run))
    else:
        statuses, notes = read_watched_status(open_run(run))
        print_trainings(console, statuses)
        for note in notes:
            console.note(note)


def watch_run(run: Path) -> "Iterator[tuple[FoldStatus, ...]]":
    """Yields the status every two seconds, or less often if there are jobs, until every fold is finished."""
    import time

    from autoseg.run_folder import open_run
    from autoseg.workflows.folds.jobs import has_jobs, read_watched_status

    opened = open_run(run)
    while True:
        statuses, _ = read_watched_status(opened)
        yield statuses
        if all(status.state == "finished" for status in statuses):
            return
        time.sleep(SECONDS_BETWEEN_QUESTIONS if has_jobs(opened) else SECONDS_BETWEEN_LOOKS)


def format_status_json(statuses: "tuple[FoldStatus, ...]") -> str:
    """Formats statuses as one JSON array, for programs."""
    import dataclasses
    import json

    return json.dumps([dataclasses.asdict(status) for status in statuses], indent=2, ensure_ascii=False)
