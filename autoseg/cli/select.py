"""`autoseg select`: choose what a run predicts with."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.completion import complete_configuration, complete_device, complete_fold


def select(
    run: Annotated[Path, typer.Argument(help="Run folder with trained and validated folds.")],
    *,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_configuration,
            help="Compare these alone (repeatable).  [default: all that are trained]",
        ),
    ] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_fold, help="Use these folds alone (repeatable).  [default: all that are validated]"
        ),
    ] = None,
    no_ensembles: Annotated[
        bool, typer.Option("--no-ensembles", help="Leave out pairs of configurations, whose cases must be predicted.")
    ] = False,
    device: Annotated[
        str, typer.Option(autocompletion=complete_device, help="For pairs: auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
) -> None:
    """Choose models and postprocessing by what they do for held-out cases; autoseg predict uses them from then on."""
    from autoseg.cli.console import open_console
    from autoseg.cli.reports import print_selection
    from autoseg.workflows.selection import SelectionRequest, select_models

    console = open_console()
    request = SelectionRequest(
        configurations=tuple(configuration) if configuration else None,
        folds=tuple(fold) if fold else None,
        ensembles=not no_ensembles,
        device=device,
    )
    selection = select_models(run, request, progress=console)
    print_selection(console, selection)
    console.note(f"written: {run / 'selection.json'}\nnext: autoseg predict {run} IMAGES OUT")
