"""`autoseg export`: hand a trained model to another tool."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from autoseg.cli.completion import complete_configuration, complete_fold


def export(
    run: Annotated[Path, typer.Argument(help="Run folder with a trained model.")],
    *,
    format: Annotated[Literal["nnunet"], typer.Option(help="Of which tool.")],
    output: Annotated[Path, typer.Option(help="Folder to be written; it gets one folder per configuration.")],
    configuration: Annotated[
        str | None, typer.Option(autocompletion=complete_configuration, help="Only this one.  [default: all trained]")
    ] = None,
    fold: Annotated[
        list[str] | None, typer.Option(autocompletion=complete_fold, help="Fold (repeatable).  [default: all trained]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a trained model so that nnU-Net v2 predicts with it."""
    from autoseg.cli.console import open_console
    from autoseg.workflows.exchange import ExportRequest, export_model

    del format  # there is one so far
    console = open_console()
    request = ExportRequest(configuration=configuration, folds=tuple(fold) if fold else None, overwrite=overwrite)
    for model in export_model(run, output, request, progress=console):
        console.note(f"exported {model.describe()}")
        console.note(
            f"next: nnUNetv2_predict_from_modelfolder -m {model.folder} -f {' '.join(model.folds)} -i IN -o OUT"
        )
