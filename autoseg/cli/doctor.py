"""`autoseg doctor`: examine this machine before work is lost on it."""

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="[RUN_OR_FOLDER]", help="Run, dataset, or folder where a run is going to be.")
    ] = Path(),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Examine versions, GPU, memory and disk within ten seconds; exit code 1 if something will fail."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.cli.terminal.doctor_table import print_findings
    from autoseg.workflows.doctor.checks import examine_machine

    console = open_console()
    report = examine_machine(folder)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        print_findings(console, report)
    raise typer.Exit(1 if report.fails else 0)
