"""`autoseg cancel`: cancel the jobs of a run on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.terminal.completion import complete_configuration, complete_fold


def cancel(
    run: Annotated[Path, typer.Argument(help="Run folder whose folds are trained as jobs.")],
    *,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_configuration, help="Only this configuration (repeatable).  [default: all]"
        ),
    ] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(autocompletion=complete_fold, help="Only this fold (repeatable).  [default: all]"),
    ] = None,
) -> None:
    """Cancel the jobs of a run that are queued or running; what they have saved is kept."""
    from autoseg.workflows.folds.jobs import cancel_run_jobs

    lines = cancel_run_jobs(run, configurations=configuration or (), folds=fold or ())
    for line in lines:
        typer.echo(line)
    if not lines:
        typer.echo(f"no job of {run} is queued or running")
