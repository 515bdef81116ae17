"""`autoseg export`: write a trained model for use elsewhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from autoseg.cli.terminal.completion import complete_configuration, complete_fold
from autoseg.errors import quote_path


def export(
    run: Annotated[Path, typer.Argument(help="Run folder with a trained model.")],
    *,
    format: Annotated[
        Literal["autoseg", "nnunet"], typer.Option(help="One file for autoseg, without training data, or for nnU-Net.")
    ],
    output: Annotated[
        Path,
        typer.Option(help="File (.zip) to write; for nnU-Net a folder, which receives one folder per configuration."),
    ],
    configuration: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_configuration,
            help="Only this one.  [default: what autoseg select chose (autoseg format), else all trained]",
        ),
    ] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(autocompletion=complete_fold, help="Fold (repeatable).  [default: as for --configuration]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a trained model to one file for autoseg, or in the format of nnU-Net v2."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.workflows.exchange.exporting import export_model
    from autoseg.workflows.exchange.request import ExportRequest

    console = open_console()
    request = ExportRequest(
        format=format, configuration=configuration, folds=tuple(fold) if fold else None, overwrite=overwrite
    )
    models = export_model(run, output, request, progress=console)
    for model in models:
        console.note(f"exported {model.describe()}")
        if format == "nnunet":
            console.note(
                f"next: nnUNetv2_predict_from_modelfolder -m {model.folder} -f {' '.join(model.folds)} -i IN -o OUT"
            )
    if format == "autoseg":
        console.note(
            f"{output}: {output.stat().st_size / 1e6:.1f} MB\nnext: autoseg predict {quote_path(output)} IMAGES OUT"
        )
