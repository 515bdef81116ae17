"""`autoseg synthesize`: make synthetic training cases."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.terminal.completion import complete_configuration, complete_device, complete_fold
from autoseg.cli.terminal.options import parse_duration


def synthesize(
    run: Annotated[Path, typer.Argument(help="Run folder made by autoseg plan.")],
    *,
    configuration: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_configuration,
            help="Configuration to train on them.  [default: 3d_fullres, else 2d]",
        ),
    ] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(autocompletion=complete_fold, help="Fold to train on them (repeatable).  [default: each fold]"),
    ] = None,
    cases: Annotated[
        int | None, typer.Option(min=1, help="Cases of each fold.  [default: as many as training cases]")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Length of the training of each denoiser.  [default: as planned]")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Fit the training of each denoiser into this time: 30m, 8h, 2d.")
    ] = None,
    device: Annotated[
        str, typer.Option(autocompletion=complete_device, help="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare patches.  [default: by cores]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.  [default: 0]")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard earlier denoisers and synthetic cases of these folds.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write all cases as images, to look at.")
    ] = None,
) -> None:
    """Make synthetic training cases for autoseg train --synthetic; continues where an earlier call stopped."""
    from autoseg.cli.terminal.console import build_stop_request, open_console
    from autoseg.workflows.synthesize.request import SynthesisRequest
    from autoseg.workflows.synthesize.synthesizing import synthesize_cases

    console = open_console()
    request = SynthesisRequest(
        configuration=configuration,
        folds=tuple(fold) if fold else None,
        cases=cases,
        epochs=epochs,
        budget_seconds=None if budget is None else parse_duration(budget),
        device=device,
        workers=workers,
        seed=seed,
        restart=restart,
        out=out,
    )
    count = synthesize_cases(run, request, progress=console, stop=build_stop_request())
    console.note(f"{count} synthetic cases in {run / 'synthetic'}; train on them with: autoseg train --synthetic")
