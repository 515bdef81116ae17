"""`autoseg preprocess`: preprocess a planned run again."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.terminal.completion import complete_configuration
from autoseg.cli.terminal.options import DryRun, OnCases, SlurmSetting


def preprocess(
    run: Annotated[Path, typer.Argument(help="Run folder whose plan.json was edited.")],
    *,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_configuration, help="Only this configuration (repeatable).  [default: all planned]"
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.  [default: by cores and free memory]")] = None,
    on: OnCases = None,
    slurm: SlurmSetting = None,
    dry_run: DryRun = False,
) -> None:
    """Preprocess a planned run again, for a plan that was edited by hand."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.places import HERE, open_place
    from autoseg.workflows.plan.planning import describe_preprocessing_run, preprocess_run

    console, names = open_console(), tuple(configuration or ())
    with open_place(on or HERE, run, slurm or ()) as place:
        if dry_run:
            typer.echo(describe_preprocessing_run(run, configurations=names, place=place))
            return
        count = preprocess_run(run, configurations=names, workers=workers, place=place, progress=console)
    console.note(f"preprocessed {count} cases in {run}")
