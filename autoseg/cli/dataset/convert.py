"""`autoseg convert`: write a public dataset in the folders of autoseg."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.terminal.completion import complete_layout
from autoseg.errors import quote_path


def convert(
    source: Annotated[Path, typer.Argument(help="Folder into which the archive of the dataset was unpacked.")],
    out: Annotated[Path, typer.Argument(help="Folder to be written.")],
    *,
    layout: Annotated[
        str,
        typer.Option(
            metavar="NAME", autocompletion=complete_layout, help="The dataset, or auto to recognize its names."
        ),
    ] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.  [default: by cores and free memory]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier conversion wrote.")] = False,
) -> None:
    """Write images, label maps, groups and dataset.json of a public dataset; the files it comes from are kept."""
    from autoseg.cli.terminal.console import UNLIMITED_WIDTH, open_console
    from autoseg.cli.terminal.init_report import print_conversion
    from autoseg.workflows.convert.converting import convert_dataset

    console = open_console(plain_width=UNLIMITED_WIDTH)
    report = convert_dataset(source, out, layout=layout, overwrite=overwrite, workers=workers, progress=console)
    print_conversion(console, report)
    console.note(f"\nwritten: {out / 'dataset.json'}\nnext: autoseg check {quote_path(out)}")
