"""`autoseg select`: select the models and postprocessing of a run."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.terminal.completion import complete_configuration, complete_device, complete_fold
from autoseg.cli.terminal.options import DryRun, On, SlurmSetting
from autoseg.errors import quote_path


def select(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder with trained and validated folds.")],
    *,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_configuration,
            help="Compare only these (repeatable).  [default: all that are trained]",
        ),
    ] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_fold, help="Use only these folds (repeatable).  [default: all that are validated]"
        ),
    ] = None,
    no_ensembles: Annotated[
        bool,
        typer.Option("--no-ensembles", help="Exclude pairs of configurations, whose cases must be predicted first."),
    ] = False,
    no_variants: Annotated[
        bool,
        typer.Option(
            "--no-variants", help="Do not measure prediction without mirroring, with larger steps, other decoding."
        ),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            autocompletion=complete_device,
            help="For pairs, pruned networks and variants: auto, cpu, cuda, cuda:N or mps.",
        ),
    ] = "auto",
    on: On = None,
    slurm: SlurmSetting = None,
    dry_run: DryRun = False,
) -> None:
    """Select models and postprocessing by their scores on held-out cases; autoseg predict uses them from then on."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.cli.terminal.reports import print_selection
    from autoseg.places import HERE, open_place
    from autoseg.workflows.select.detached import describe_selecting, select_in_job
    from autoseg.workflows.select.request import SelectionRequest
    from autoseg.workflows.select.selection import select_models

    console = open_console()
    request = SelectionRequest(
        configurations=tuple(configuration) if configuration else None,
        folds=tuple(fold) if fold else None,
        ensembles=not no_ensembles,
        variants=not no_variants,
        device=device,
    )
    with open_place(on or HERE, run, slurm or ()) as place:
        if dry_run:
            typer.echo(describe_selecting(run, request, place, autoseg=context.obj))
            return
        if on in (None, HERE):
            selection = select_models(run, request, progress=console)
        else:
            selection = select_in_job(run, request, place, autoseg=context.obj, progress=console)
    print_selection(console, selection)
    console.note(f"written: {run / 'selection.json'}\nnext: autoseg predict {quote_path(run)} IMAGES OUT")
