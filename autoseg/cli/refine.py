"""`autoseg refine`: correct a label map by clicks."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.terminal.completion import complete_configuration, complete_device, complete_fold


def refine(
    run: Annotated[Path, typer.Argument(help="Run folder, or exported zip, with a configuration of `plan --refine`.")],
    image: Annotated[Path, typer.Argument(help="Image file; other channels are found beside it.")],
    label_map: Annotated[Path, typer.Argument(metavar="LABELMAP", help="Label map to correct, on the image's grid.")],
    *,
    clicks: Annotated[Path, typer.Option(help="Positions and labels: .json, .csv, or .mrk.json of 3D Slicer.")],
    out: Annotated[Path, typer.Option(help="File for the corrected label map.")],
    configuration: Annotated[
        str | None,
        typer.Option(autocompletion=complete_configuration, help="Model to use.  [default: the only one for clicks]"),
    ] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(autocompletion=complete_fold, help="Fold (repeatable).  [default: all trained ones]"),
    ] = None,
    device: Annotated[
        str, typer.Option(autocompletion=complete_device, help="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Correct a label map by clicks: voxels whose label is known. The clicked voxels keep these labels."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.workflows.refine.refining import refine_label_map

    console = open_console()
    changed = refine_label_map(
        run,
        image,
        label_map,
        clicks=clicks,
        out=out,
        configuration=configuration,
        folds=tuple(fold) if fold else None,
        device=device,
        overwrite=overwrite,
        progress=console,
    )
    console.note(f"{changed} voxels changed: {out}")
