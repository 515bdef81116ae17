"""`autoseg --version`: show the version."""

from typing import Annotated

import typer


def _print_version(wanted: bool) -> None:
    if wanted:
        from autoseg import __version__

        typer.echo(f"autoseg {__version__}")
        raise typer.Exit


def show_version(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """From a folder of labelled medical images to a trained, validated segmentation model.

    plan measures and preprocesses a dataset, train trains and validates, predict segments new images, evaluate scores
    segmentations. Every command works on one run folder; nothing else is configured.
    """
    del version
