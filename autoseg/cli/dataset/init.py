"""`autoseg init`: write dataset.json for a folder of images and label maps."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.errors import OptionError, quote_path


def init(
    folder: Annotated[Path, typer.Argument(help="Folder with images and label maps.")],
    *,
    images: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="Which files are images, as 'scans/*.nii.gz'.  [default: by name]"),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Which files are label maps or masks; needed with --images.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.  [default: by cores and free memory]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset.json.")] = False,
) -> None:
    """Pair images with label maps, name channels and labels, and write dataset.json; the files stay where they are."""
    from autoseg.cli.terminal.console import UNLIMITED_WIDTH, open_console
    from autoseg.cli.terminal.init_report import print_init
    from autoseg.workflows.init.file_pairing import FilePatterns
    from autoseg.workflows.init.initializing import InitRequest, init_dataset

    if (images is None) != (labels is None):
        msg = "--images and --labels must be given together, with * for the name of the case; one of them is missing"
        raise OptionError(msg)
    patterns = FilePatterns(images=images, labels=labels) if images is not None and labels is not None else None
    console = open_console(plain_width=UNLIMITED_WIDTH)
    request = InitRequest(patterns=patterns, overwrite=overwrite, workers=workers)
    report = init_dataset(folder, request, progress=console)
    print_init(console, report)
    console.note(f"\nwritten: {report.dataset / 'dataset.json'}\nnext: autoseg check {quote_path(folder)}")
