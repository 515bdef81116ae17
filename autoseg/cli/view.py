"""`autoseg view`: show an image and label maps in the browser."""

from pathlib import Path
from typing import Annotated

import typer


def view(
    image: Annotated[Path, typer.Argument(help="Image of any format that autoseg reads, or a folder of DICOM.")],
    label_maps: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[LABELMAP]...", help="Label maps or DICOM segmentations on the grid of the image."),
    ] = None,
    *,
    series: Annotated[
        str | None, typer.Option(help="DICOM series by UID, number or description.  [default: the only one]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The file.  [default: one in the folder for temporary files]"),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open it in the browser.")] = False,
) -> None:
    """Write an image with label maps into one HTML file with a 3D viewer, and open it in the browser."""
    import tempfile
    import webbrowser

    from autoseg.cli.terminal.console import open_console
    from autoseg.report.viewer import MISSING, SCRIPT
    from autoseg.workflows.report.viewing import write_view

    console = open_console()
    path = out or Path(tempfile.mkdtemp(prefix="autoseg-view-")) / "view.html"
    size = write_view(image, tuple(label_maps or ()), path, series=series)
    if not SCRIPT.is_file():
        console.note(MISSING)
    console.note(f"written: {path} ({size / 2**20:.1f} MiB)")
    if not no_open:
        webbrowser.open(path.absolute().as_uri())
