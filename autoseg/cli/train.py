"""`autoseg train`: train and validate folds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli.completion import complete_configuration, complete_device, complete_fold, complete_precision
from autoseg.cli.options import parse_duration, parse_precision, parse_trackers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoseg.cli.console import Console
    from autoseg.workflows.training_request import TrainingRequest
    from autoseg.workflows.training_units import Unit


def train(
    run: Annotated[Path, typer.Argument(help="Run folder made by autoseg plan.")],
    *,
    configuration: Annotated[
        str | None,
        typer.Option(autocompletion=complete_configuration, help="What to train.  [default: all that is planned]"),
    ] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_fold,
            help='Fold 0 to 4 (repeatable), or "all" for one model of every case.  [default: each fold]',
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Length of the schedule; more than a finished training had extend it.  [default: the plan's]"
        ),
    ] = None,
    extend: Annotated[
        int | None, typer.Option(min=1, metavar="EPOCHS", help="Train a finished fold for so many epochs more.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Fit each fold, validation included, into this time: 30m, 8h, 1h30m, 2d."),
    ] = None,
    until_plateau: Annotated[
        bool,
        typer.Option(
            "--until-plateau", help="Train until whole held-out volumes no longer improve, then anneal and end."
        ),
    ] = False,
    precision: Annotated[
        str,
        typer.Option(
            autocompletion=complete_precision,
            help="auto, float32, bfloat16 or float16: numbers in which networks compute.",
        ),
    ] = "auto",
    device: Annotated[
        str, typer.Option(autocompletion=complete_device, help="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
    devices: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Train on several at once, one fold on each: 0,1,2 (CUDA) or cpu."),
    ] = None,
    parallel: Annotated[
        bool, typer.Option("--parallel", help="Train each fold on all --devices together, which share its batches.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare patches, for each fold.  [default: by cores]")
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="The same result every time: on a GPU, too (slower), and beside other programs."
        ),
    ] = False,
    log_to: Annotated[
        list[str] | None, typer.Option(metavar="mlflow|wandb", help="Log there, too (repeatable).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.  [default: 0]")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an earlier training of these folds.")] = False,
) -> None:
    """Train every configuration and fold, each validated on whole volumes; continues where an earlier call stopped."""
    from autoseg.cli.console import open_console
    from autoseg.cli.reports import print_crossvalidation
    from autoseg.training.start import Length
    from autoseg.workflows.crossvalidation import collect_crossvalidation
    from autoseg.workflows.training_places import choose_places, is_leader, is_one_process
    from autoseg.workflows.training_request import TrainingRequest
    from autoseg.workflows.training_units import list_units

    console = open_console()
    request = TrainingRequest(
        configuration=configuration,
        folds=tuple(fold) if fold else None,
        length=Length(epochs=epochs, more_epochs=extend, until_plateau=until_plateau),
        budget_seconds=None if budget is None else parse_duration(budget),
        precision=parse_precision(precision),
        seed=seed,
        restart=restart,
        workers=workers,
        deterministic=deterministic,
        log_to=parse_trackers(log_to or ()),
        parallel=parallel,
    )
    places = choose_places(device, devices, parallel=parallel)
    units = list_units(run, request, progress=console)
    if is_one_process(units, places, parallel=parallel):
        train_here(console, run, request, units[0], device=places[0][0])
        is_well = True
    else:
        is_well = train_in_queue(console, run, request, units, places=places)
    if not is_leader(parallel=parallel):
        return
    result = collect_crossvalidation(run)
    if result is not None:
        print_crossvalidation(console, result)
        console.note(f"written: {run / 'crossvalidation.json'}, {run / 'crossvalidation.csv'}")
    if not is_well:
        raise typer.Exit(1)
    console.note(f"next: autoseg predict {run} IMAGES OUT")


def train_here(console: "Console", run: Path, request: "TrainingRequest", unit: "Unit", *, device: str) -> None:
    """One fold, in this process."""
    from dataclasses import replace

    from autoseg.cli.console import listen_to_stops
    from autoseg.cli.reports import print_summary
    from autoseg.workflows.training import train_run

    chosen = replace(request, configuration=unit.configuration, folds=(unit.fold,), device=device)
    stop = listen_to_stops()
    with stop.heard():
        for trained in train_run(run, chosen, progress=console, stop=stop):
            console.note(f"\nfold {trained.fold}: model {trained.folder.final_checkpoint}")
            if trained.summary is not None:
                print_summary(console, trained.summary)
                console.note(f"validation in {trained.folder.validation}")
            for warning in trained.warnings:
                console.note(f"warning: {warning}")


def train_in_queue(
    console: "Console",
    run: Path,
    request: "TrainingRequest",
    units: "Sequence[Unit]",
    *,
    places: "Sequence[tuple[str, ...]]",
) -> bool:
    """Each fold in a process of its own, as many at once as there are places; tells whether all went well."""
    from contextlib import closing

    from autoseg.cli.console import listen_to_stops
    from autoseg.cli.training_table import print_trainings, show_trainings
    from autoseg.errors import Stopped
    from autoseg.progress import format_duration
    from autoseg.training.trackers import check_trackers
    from autoseg.workflows.training_queue import build_queue

    check_trackers(request.log_to)
    stop = listen_to_stops()
    queue = build_queue(run, units, request, places, stop=stop)
    console.note(f"{len(queue.waiting)} of {len(units)} folds to train; what they print goes to {run / 'logs'}")
    if request.budget_seconds is not None and queue.waiting:
        rounds = -(-len(queue.waiting) // len(places))
        console.note(
            f"each of them gets {format_duration(request.budget_seconds)}, so all take up to "
            f"{format_duration(rounds * request.budget_seconds)}"
        )
    try:
        with stop.heard(), closing(queue.work_off()) as snapshots:
            last = show_trainings(console, snapshots)
    except KeyboardInterrupt:
        raise Stopped(queue.describe_interruption(request)) from None
    if not console.is_terminal:
        print_trainings(console, last)
    return not queue.failures
