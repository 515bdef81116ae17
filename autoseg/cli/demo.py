"""`autoseg demo`: run the whole pipeline on a small synthetic dataset."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to work in.")] = Path("autoseg-demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in that folder.")] = False,
) -> None:
    """Make a small CT-like dataset, then plan, train, predict and evaluate on it (about two minutes)."""
    from autoseg.cli.choices import find_planner
    from autoseg.cli.terminal.console import open_console
    from autoseg.cli.terminal.reports import print_plan, print_summary
    from autoseg.workflows.demo import run_demo

    console = open_console()
    outcome = run_demo(
        folder,
        find_planner("default").plan,
        report=lambda plan: print_plan(console, plan),
        overwrite=overwrite,
        progress=console,
    )
    print_summary(console, outcome.summary)
    for meaning, path in outcome.paths:
        console.note(f"{meaning:<24} {path}")
