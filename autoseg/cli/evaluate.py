"""`autoseg evaluate`: compare segmentations with references."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted label maps.")],
    references: Annotated[Path, typer.Argument(help="Folder of reference label maps of the same names.")],
    run: Annotated[Path, typer.Option(help="Run folder, which defines the labels.")],
) -> None:
    """Print Dice, IoU, HD95 and surface Dice per case and class; write summary.json and summary.csv."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.cli.terminal.reports import print_cases, print_summary
    from autoseg.workflows.evaluate.evaluation import evaluate_folder

    console = open_console()
    summary = evaluate_folder(predictions, references, run_root=run, progress=console)
    print_cases(console, summary)
    print_summary(console, summary)
    console.note(f"written: {predictions / 'summary.json'}, {predictions / 'summary.csv'}")
