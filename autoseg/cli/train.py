"""`autoseg train`: train and validate folds of a configuration."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.options import parse_duration, parse_precision


def train(
    run: Annotated[Path, typer.Argument(help="Run folder made by autoseg plan.")],
    *,
    configuration: Annotated[
        str | None, typer.Option(help="What to train.  [default: 3d_fullres if planned, else 2d]")
    ] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(help='Fold 0 to 4 (repeatable), or "all" for one model of every case.  [default: each fold]'),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Length of the schedule; more than a finished training had extend it.  [default: the plan's]"
        ),
    ] = None,
    extend: Annotated[
        int | None, typer.Option(min=1, metavar="EPOCHS", help="Train a finished fold for so many epochs more.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Fit each fold, validation included, into this time: 30m, 8h, 1h30m, 2d."),
    ] = None,
    until_plateau: Annotated[
        bool,
        typer.Option(
            "--until-plateau", help="Train until whole held-out volumes no longer improve, then anneal and end."
        ),
    ] = False,
    precision: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16: numbers in which networks compute.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.  [default: 0]")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an earlier training of this fold.")] = False,
) -> None:
    """Train folds and validate each on whole volumes; continues where an earlier call stopped."""
    from autoseg.cli.console import open_console
    from autoseg.cli.reports import print_summary
    from autoseg.training.start import Length
    from autoseg.workflows.training import TrainingRequest, train_run

    console = open_console()
    request = TrainingRequest(
        configuration=configuration,
        folds=tuple(fold) if fold else None,
        length=Length(epochs=epochs, more_epochs=extend, until_plateau=until_plateau),
        budget_seconds=None if budget is None else parse_duration(budget),
        device=device,
        precision=parse_precision(precision),
        seed=seed,
        restart=restart,
    )
    for trained in train_run(run, request, progress=console):
        console.note(f"\nfold {trained.fold}: model {trained.folder.final_checkpoint}")
        if trained.summary is not None:
            print_summary(console, trained.summary)
            console.note(f"validation in {trained.folder.validation}")
    console.note(f"next: autoseg predict {run} IMAGES OUT")
