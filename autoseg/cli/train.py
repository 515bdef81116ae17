"""`autoseg train`: train and validate folds."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli.choices import build_cpu_forecast
from autoseg.cli.terminal.completion import complete_configuration, complete_device, complete_fold, complete_precision
from autoseg.cli.terminal.options import DryRun, On, SlurmSetting, parse_duration, parse_precision, parse_trackers

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoseg.workflows.train.job import TrainingOutcome


def train(
    run: Annotated[Path, typer.Argument(help="Run folder made by autoseg plan.")],
    *,
    context: typer.Context,
    configuration: Annotated[
        str | None,
        typer.Option(autocompletion=complete_configuration, help="Configuration to train.  [default: all planned]"),
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
            min=1, help="Length of the schedule; a finished training is extended to more epochs.  [default: the plan's]"
        ),
    ] = None,
    extend: Annotated[
        int | None, typer.Option(min=1, metavar="EPOCHS", help="Train a finished fold for this many more epochs.")
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
            help="auto, float32, bfloat16 or float16: precision of the computation.",
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
        int | None, typer.Option(min=0, help="Processes per fold that prepare patches.  [default: by cores]")
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Compute the same result every time, also on a GPU (slower) and beside other programs.",
        ),
    ] = False,
    log_to: Annotated[
        list[str] | None, typer.Option(metavar="mlflow|wandb", help="Also log to this tracker (repeatable).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.  [default: 0]")] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|FILE",
            help="Begin with the weights of a checkpoint, or of the same configuration and fold of another run; "
            "kernels of another size are interpolated.  [default: random weights]",
        ),
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Train also on the synthetic cases of autoseg synthesize.")
    ] = False,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Learn from the answers of the same configuration and fold of another run, too (distillation).",
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an earlier training of these folds.")] = False,
    on: On = None,
    nodes: Annotated[
        int, typer.Option(min=1, help="Computers of a cluster that train each fold together (with --parallel).")
    ] = 1,
    slurm: SlurmSetting = None,
    dry_run: DryRun = False,
) -> None:
    """Train every configuration and fold, each validated on whole volumes; continues where an earlier call stopped."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.places import HERE, open_place
    from autoseg.training.options import Length
    from autoseg.workflows.train.dispatch import describe_training, train_folds
    from autoseg.workflows.train.request import TrainingRequest

    request = TrainingRequest(
        configuration=configuration,
        folds=tuple(fold) if fold else None,
        length=Length(epochs=epochs, more_epochs=extend, until_plateau=until_plateau),
        budget_seconds=None if budget is None else parse_duration(budget),
        device=device,
        precision=parse_precision(precision),
        seed=seed,
        initial_weights=init,
        synthetic=synthetic,
        teacher=teacher,
        restart=restart,
        workers=workers,
        deterministic=deterministic,
        log_to=parse_trackers(log_to or ()),
        parallel=parallel,
        nodes=nodes,
    )
    with open_place(on or HERE, run, slurm or ()) as place:
        given = {"devices": devices, "autoseg": context.obj, "forecast_cpu": build_cpu_forecast(), "place": place}
        if dry_run:
            typer.echo(describe_training(run, request, **given, progress=open_console()))
        else:
            show_training(run, partial(train_folds, run, request, **given))


def show_training(run: Path, work: "Callable[..., TrainingOutcome]") -> None:
    """Trains, and shows progress and results; ends with exit code 1 if a fold failed."""
    from autoseg.cli.terminal.console import build_stop_request, open_console
    from autoseg.cli.terminal.training_table import print_trained_fold, print_training_outcome, show_queue

    console = open_console()
    report, show, stop = partial(print_trained_fold, console), partial(show_queue, console), build_stop_request()
    outcome = work(report_fold=report, show_statuses=show, progress=console, stop=stop)
    print_training_outcome(console, outcome, run)
    if outcome.failures:
        raise typer.Exit(1)
