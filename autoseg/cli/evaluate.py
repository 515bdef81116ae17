"""`autoseg evaluate`: compare segmentations with references."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.terminal.options import DryRun, OnCases, SlurmSetting


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted label maps.")],
    references: Annotated[Path, typer.Argument(help="Folder of reference label maps of the same names.")],
    *,
    run: Annotated[Path, typer.Option(help="Run folder, which defines the labels.")],
    instances: Annotated[
        Path | None, typer.Option(help="Folder that numbers the objects of the references: scores objects, too.")
    ] = None,
    on: OnCases = None,
    slurm: SlurmSetting = None,
    dry_run: DryRun = False,
) -> None:
    """Print Dice, IoU, HD95 and surface Dice per case and class; write summary.json and summary.csv."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.cli.terminal.reports import print_cases, print_objects, print_summary
    from autoseg.places import HERE, open_place
    from autoseg.workflows.evaluate.evaluation import describe_evaluating, evaluate_folder
    from autoseg.workflows.evaluate.objects import SCORES_CSV, SCORES_JSON, describe_matching, evaluate_objects

    console = open_console()
    with open_place(on or HERE, run, slurm or ()) as place:
        if dry_run:
            typer.echo(describe_evaluating(predictions, references, run_root=run, place=place))
            if instances is not None:
                typer.echo(describe_matching(predictions, references, instances, run_root=run, place=place))
            return
        summary = evaluate_folder(predictions, references, run_root=run, progress=console, place=place)
        objects = None
        if instances is not None:
            objects = evaluate_objects(predictions, references, instances, run_root=run, progress=console, place=place)
    print_cases(console, summary)
    print_summary(console, summary)
    if objects is not None:
        print_objects(console, objects.classes)
    names = ("summary.json", "summary.csv", *((SCORES_JSON, SCORES_CSV) if objects is not None else ()))
    console.note(f"written: {', '.join(str(predictions / name) for name in names)}")
