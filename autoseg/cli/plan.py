"""`autoseg plan`: check, measure, plan and preprocess a dataset."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from autoseg.cli.choices import DEFAULT_LOSS, find_planner
from autoseg.cli.terminal.completion import (
    complete_architecture,
    complete_configuration,
    complete_head,
    complete_loss,
    complete_part,
    complete_planner,
)
from autoseg.cli.terminal.options import (
    WITHOUT_RESULT,
    DryRun,
    OnCases,
    SlurmSetting,
    list_given_options,
    parse_duration,
)
from autoseg.errors import PlanError, quote_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autoseg.fingerprint import DeviceThroughput, Machine
    from autoseg.plan.document import Plan
    from autoseg.workflows.plan.planner import PlanRule
    from autoseg.workflows.plan.planning import PlanningOutcome, PlanRequest

WITHOUT_PLANNER: Final = (*WITHOUT_RESULT, "--planner", "--memory-gb", "--budget")
"""Options that another planner does not get."""


def plan(
    dataset: Annotated[Path, typer.Argument(help="Folder with dataset.json, images and labels.")],
    *,
    run: Annotated[Path | None, typer.Option(help="Run folder.  [default: <dataset name>.autoseg]")] = None,
    planner: Annotated[
        str, typer.Option(autocompletion=complete_planner, help="Set of planning rules; `autoseg planners` lists them.")
    ] = "default",
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_architecture,
            help="Network of the literature; `autoseg architectures` lists them.  [default: the planner's own]",
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            autocompletion=complete_part,
            help="Replaces a part of the networks of --architecture (repeatable): block, decoder_block, skip, context, "
            "attention, normalization, activation, downsampling, upsampling; block=csp_rep.",
        ),
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights for the encoder of --architecture, in torchvision's form (.pth, .safetensors); for "
            "latent_diffusion those of Stable Diffusion (.ckpt, .safetensors).  [default: random]",
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_head,
            help="Replaces the last stages of the network. point_rend: the decoder stops at half the resolution, and a "
            "small network answers the uncertain voxels.  [default: none]",
        ),
    ] = None,
    loss: Annotated[
        str,
        typer.Option(autocompletion=complete_loss, help="Loss, or several joined by +; `autoseg losses` lists them."),
    ] = DEFAULT_LOSS,
    plausibility: Annotated[
        bool,
        typer.Option(
            "--plausibility",
            help="Train a label autoencoder before each network, by which autoseg predict tells how plausible label "
            "maps are.",
        ),
    ] = False,
    task: Annotated[
        Literal["segmentation", "instances"],
        typer.Option(help="Predict classes, or also tell apart the objects that instancesTr numbers."),
    ] = "segmentation",
    targets: Annotated[
        Literal["core_border", "centre_distance"],
        typer.Option(help="What is learned of objects: core and border, or the distance from their centre, too."),
    ] = "core_border",
    memory_gb: Annotated[
        float | None, typer.Option(min=0.1, help="Accelerator memory to plan for.  [default: the planner's own]")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="From raw images to predictions of one fold, for planners that plan by time: 30m, 8h.  "
            "[default: the planner's own]",
        ),
    ] = None,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_configuration,
            help="Preprocess only this configuration (repeatable); 2.5d, 3d_roi, 2d_triplanar, detect_then_segment and "
            "boundary_refinement only if named.  [default: all planned]",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Keep cases in one fold whose names agree in this pattern: in its first group, or else as a whole.",
        ),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Folds from this file, in the form of nnU-Net's splits_final.json.")
    ] = None,
    fix_geometry: Annotated[
        bool, typer.Option("--fix-geometry", help="Resample channels and label maps on another grid than channel 0.")
    ] = False,
    no_preprocess: Annotated[bool, typer.Option("--no-preprocess", help="Stop after planning.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.  [default: by cores and free memory]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing plan and its data.")] = False,
    refine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONFIGURATION",
            autocompletion=complete_configuration,
            help="Add a configuration that corrects this one by clicks (repeatable); a trained run may get it later.",
        ),
    ] = None,
    on: OnCases = None,
    slurm: SlurmSetting = None,
    dry_run: DryRun = False,
) -> None:
    """Check and measure a dataset, plan, print every decision with its reason, and preprocess."""
    given = dict(locals())
    from autoseg.places import HERE, open_place
    from autoseg.workflows.plan.planner import find_label_check
    from autoseg.workflows.plan.planning import PlanRequest, build_plan_rule, describe_planning, measure_device
    from autoseg.workflows.plan.splitting import SplitRequest

    find = partial(find_planner, pretrained=pretrained, head=head, configurations=configuration, parts=part)
    chosen = find(planner, architecture, loss=loss, plausibility=plausibility)
    request = PlanRequest(
        planner=chosen.name,
        machine=describe_machine(memory_gb, budget, planner),
        configurations=tuple(configuration or ()),
        preprocess=not no_preprocess,
        workers=workers,
        overwrite=overwrite,
        split=SplitRequest(group_by=group_by, splits_file=splits),
        fix_geometry=fix_geometry,
        additions=list_additions(refine or ()),
        border_fraction=find_border_fraction(task),
        centre_steps=find_centre_steps(targets),
        check_labels=find_label_check(chosen),
        call=list_given_options(plan, given),
    )
    measure = cache(measure_device)
    with open_place(on or HERE, run or Path(), slurm or ()) as place:
        if dry_run:
            return typer.echo(describe_planning(dataset, run, request=replace(request, place=place)))
        outcome = plan_and_print(dataset, run, build_plan_rule(chosen, measure=measure), replace(request, place=place))
    show_forecast(outcome, request, measure, options=list_given_options(plan, given, but=WITHOUT_PLANNER))


def describe_machine(memory_gb: float | None, budget: str | None, planner: str) -> "Machine":
    """Describes the computer to plan for.

    Raises:
        PlanError: A budget is given, and the planner does not plan by time.
        OptionError: The budget is not a time.
    """
    from autoseg.fingerprint import Machine

    return Machine(accelerator_memory_gb=memory_gb, budget_seconds=parse_budget(budget, planner))


def list_additions(refine: "Sequence[str]") -> "tuple[Callable[[Plan], Plan], ...]":
    """Lists what adds refinements of these configurations to a plan."""
    from planners.refinement import add_refinement

    return tuple(partial(add_refinement, previous=name) for name in refine)


def find_border_fraction(task: str) -> float | None:
    """Finds the width of the border by which a task tells objects apart; None: it does not."""
    from planners.rules.instances import choose_border_fraction

    return choose_border_fraction().value if task == "instances" else None


def find_centre_steps(targets: str) -> int:
    """Finds the steps of the centre distance; 0: it is not learned."""
    from planners.rules.instances import choose_centre_steps

    return choose_centre_steps().value if targets == "centre_distance" else 0


def plan_and_print(dataset: Path, run: Path | None, rule: "PlanRule", request: "PlanRequest") -> "PlanningOutcome":
    """Plans and preprocesses, and prints classes and decisions."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.cli.terminal.reports import print_classes, print_plan
    from autoseg.workflows.plan.planning import plan_dataset

    console = open_console()
    return plan_dataset(
        dataset,
        run,
        rule,
        request=request,
        report=partial(print_plan, console),
        report_classes=partial(print_classes, console),
        progress=console,
    )


def parse_budget(text: str | None, planner: str) -> float | None:
    """Parses the option --budget into seconds; None without it.

    Raises:
        PlanError: The planner does not plan by time.
        OptionError: The text is not a time.
    """
    if text is None:
        return None
    if not find_planner(planner).measures_throughput:
        msg = (
            f"the planner {planner!r} does not plan by time; leave out --budget here and give it to autoseg train, "
            f"or choose --planner timed"
        )
        raise PlanError(msg)
    return parse_duration(text)


def show_forecast(
    outcome: "PlanningOutcome",
    request: "PlanRequest",
    measure: "Callable[[], DeviceThroughput]",
    *,
    options: "Sequence[str]" = (),
) -> None:
    """Prints what was done, what training will take on this computer, and the next command.

    Args:
        outcome: The run and what was done for it.
        request: The request that led to it.
        measure: Measures the speed of the device that will train.
        options: Words of the command line that say what was planned, for the suggestion of another plan.
    """
    from autoseg.cli.terminal.console import open_console
    from autoseg.cli.terminal.forecast_table import print_forecast, suggest_next
    from autoseg.workflows.plan.forecasting import forecast_run
    from autoseg.workflows.plan.machine_survey import survey_machine
    from autoseg.workflows.plan.planning import find_network_cost
    from planners.step_time import estimate_cost

    console = open_console()
    console.note(f"\n{outcome.describe()}")
    run = outcome.run.root
    forecast = forecast_run(
        run,
        configurations=request.configurations,
        survey=partial(
            survey_machine,
            estimate=estimate_cost,
            measure=measure,
            measure_cost=find_network_cost,
            progress=console,
        ),
        measure_cost=find_network_cost,
    )
    print_forecast(console, forecast, run, options=join(options))
    before = "" if request.preprocess else f"autoseg preprocess {quote_path(run)}, then "
    console.note(f"next: {before}{suggest_next(forecast, run)}")
    console.note(f"to see it: autoseg report {quote_path(run)}")
