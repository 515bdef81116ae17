"""`autoseg report`: show a run as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Run folder, at any stage.")],
    *,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also show the predictions of new images in this folder.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Images of the predictions, where prediction.json does not say where, as of DICOM."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The file.  [default: report.html in the run]")
    ] = None,
) -> None:
    """Write data, plan, training, scores and cases of a run into one HTML file that needs no network."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.report.viewer import MISSING
    from autoseg.workflows.report.reporting import write_report

    console = open_console()
    outcome = write_report(run, out=out, predictions=predictions, images=images, progress=console)
    if not outcome.has_viewer:
        console.note(MISSING)
    console.note(outcome.describe())
