"""`autoseg import`: import models of nnU-Net, or one that autoseg exported."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from autoseg.cli.terminal.completion import complete_configuration, complete_fold
from autoseg.errors import quote_path


def import_model(
    source: Annotated[
        Path,
        typer.Argument(
            help="Model folder, folder of models, or exported zip of nnU-Net v2; or an exported zip of autoseg."
        ),
    ],
    run: Annotated[Path, typer.Argument(help="Run folder to write.")],
    *,
    configuration: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_configuration,
            help="Only the model of this configuration.  [default: all of the source]",
        ),
    ] = None,
    fold: Annotated[
        list[str] | None, typer.Option(autocompletion=complete_fold, help="Fold (repeatable).  [default: all]")
    ] = None,
    checkpoint: Annotated[
        Literal["final", "best", "latest"], typer.Option(help="Which checkpoint of each fold.")
    ] = "final",
    any_trainer: Annotated[
        bool, typer.Option("--any-trainer", help="Accept trainers that nnU-Net does not ship.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace models that the run holds.")] = False,
) -> None:
    """Import models that nnU-Net trained or autoseg exported into a run; nothing in their files is executed."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.workflows.exchange.importing import import_model as work
    from autoseg.workflows.exchange.request import ImportRequest

    console = open_console()
    request = ImportRequest(
        configuration=configuration,
        folds=tuple(fold) if fold else None,
        checkpoint=checkpoint,
        accepts_any_trainer=any_trainer,
        overwrite=overwrite,
    )
    for model in work(source, run, request, progress=console):
        if model.written:
            console.note(f"imported {model.describe()}")
    console.note(f"next: autoseg predict {quote_path(run)} IMAGES OUT")
