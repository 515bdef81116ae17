"""`autoseg planners`, `autoseg architectures`, `autoseg losses`: list what `autoseg plan` can be asked for."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from autoseg.errors import OptionError, PlanError

if TYPE_CHECKING:
    from autoseg.plan.network import EncoderUPlan, LatentDiffusionPlan
    from autoseg.plan.network.base import PretrainedPlan
    from autoseg.workflows.plan.planner import PlannerLike
    from autoseg.workflows.train.detached import ForecastCpu
    from planners.architectures.architecture import Architecture

Row = TypeVar("Row")

DEFAULT_LOSS: Final = "dice+cross_entropy"  # what every planner chooses by itself


def build_cpu_forecast() -> "ForecastCpu":
    """Builds the forecast of folds on this computer's CPU, which `autoseg plan` prints, too."""
    from functools import partial

    from autoseg.workflows.plan.forecasting import forecast_cpu_seconds
    from autoseg.workflows.plan.planning import find_network_cost
    from planners.step_time import estimate_cost

    return partial(forecast_cpu_seconds, estimate=estimate_cost, measure_cost=find_network_cost)


def planners() -> None:
    """List the planners that `autoseg plan --planner` accepts."""
    from planners import PLANNERS

    _print_table(
        (name, planner.description if name == planner.name else f"The same as {planner.name}, by its earlier name.")
        for name, planner in PLANNERS.items()
    )


def architectures(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run folder, for whose patches the networks are counted.  [default: none is counted]"),
    ] = None,
    *,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the time of a patch on this computer's CPU, too.")
    ] = False,
) -> None:
    """List the networks that `autoseg plan --architecture` accepts, with their size and cost for a run."""
    from autoseg.cli.terminal.architecture_table import print_architectures, print_costs
    from autoseg.cli.terminal.console import open_console
    from planners import ARCHITECTURES

    if run is None:
        if measure:
            msg = "--measure needs a run, whose patches are to be computed: autoseg architectures RUN --measure"
            raise OptionError(msg)
        print_architectures(ARCHITECTURES)
        return
    print_costs(open_console(), ARCHITECTURES, run, is_measured=measure)


def losses() -> None:
    """List the losses that `autoseg plan --loss` accepts."""
    from planners.losses import LOSS_RULES

    _print_table((name, f"{rule.description} ({rule.source} {rule.year})") for name, rule in LOSS_RULES.items())
    typer.echo(f"\nNames joined by + are added up; the default is {DEFAULT_LOSS}.")


def find_planner(
    name: str,
    architecture: str | None = None,
    *,
    loss: str = DEFAULT_LOSS,
    pretrained: Path | None = None,
    head: str | None = None,
    configurations: Iterable[str] | None = None,
    parts: Iterable[str] | None = None,
    plausibility: bool = False,
) -> "PlannerLike":
    """Finds a planner by its name, for the networks of an architecture and with another loss.

    Args:
        name: Key of `planners.PLANNERS`.
        architecture: Key of `planners.ARCHITECTURES`; None: the networks that the planner chooses by itself.
        loss: Names of losses, joined by +.
        pretrained: File of first weights for a part of the architecture.
        head: Key of `planners.HEADS`; None: the networks keep their own.
        configurations: Names of configurations, of which those are planned, too, that are planned on request alone.
        parts: Parts that are replaced in the networks of the architecture, each in the form NAME=VALUE.
        plausibility: Whether a label autoencoder beside every network tells how plausible its predictions are.

    Raises:
        PlanError: There is no such planner, architecture, head, loss or part; the message lists the existing ones. Or
            the file does not fit the architecture, or a part, or the planner never plans a configuration that is named.
        OptionError: A part has another form, or is named twice.
        ExchangeError: The file is damaged, or holds anything but weights.
    """
    from planners import FURTHER_CONFIGURATIONS, HEADS, PLANNERS, PlausibilityPlanner, replace_parts
    from planners.losses import LossPlanner

    planner, replaced = find_row(name, PLANNERS, kind="planner"), parse_parts(parts or ())
    if architecture is None and replaced:
        msg = "--part replaces parts of the networks of an --architecture, and none was chosen; choose u_net, say"
        raise OptionError(msg)
    if architecture is not None or pretrained is not None:
        planner = planner.with_architecture(replace_parts(_find_architecture(architecture, pretrained), replaced))
    if head is not None:
        planner = planner.with_head(find_row(head, HEADS, kind="head"))
    further = [other for other in configurations or () if other in FURTHER_CONFIGURATIONS]
    if further:
        planner = planner.with_configurations(further)
    chosen = planner if loss == DEFAULT_LOSS else LossPlanner(planner=planner, loss=loss)
    return PlausibilityPlanner(planner=chosen) if plausibility else chosen


def parse_parts(texts: Iterable[str]) -> dict[str, str]:
    """Parses the option --part.

    Raises:
        OptionError: One is not of the form NAME=VALUE, or names a part again.
    """
    parts: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            msg = f"--part needs the form NAME=VALUE, such as block=csp_rep (got {text!r})"
            raise OptionError(msg)
        if name in parts:
            msg = f"--part {name} is given twice ({parts[name]}, {value}); leave one out"
            raise OptionError(msg)
        parts[name] = value
    return parts


def _find_architecture(name: str | None, pretrained: Path | None) -> "Architecture":
    """Finds an architecture, whose parts begin with the weights of a file where one is given.

    Its name then says which file, so that a run with other first weights is not continued.
    """
    from planners import ARCHITECTURES
    from planners.architectures.encoder_u import EncoderUProfile
    from planners.architectures.hybrid import HybridProfile
    from planners.architectures.mask_rcnn import MaskRcnnProfile
    from planners.architectures.stable_diffusion import LatentDiffusionProfile

    encoded = (EncoderUProfile, HybridProfile, LatentDiffusionProfile, MaskRcnnProfile)
    found = None if name is None else find_row(name, ARCHITECTURES, kind="architecture")
    if found is not None and pretrained is None:
        return found
    profile = None if found is None else found.choose_network
    if found is None or pretrained is None or not isinstance(profile, encoded):
        able = [row for row, other in ARCHITECTURES.items() if isinstance(other.choose_network, encoded)]
        chosen = "none was chosen" if name is None else f"{name} has none"
        msg = (
            f"--pretrained needs an --architecture with a part of which others publish weights, and {chosen}; "
            f"choose one of: {', '.join(able)}"
        )
        raise PlanError(msg)
    described = _describe_weights(pretrained, profile.build_published())
    name = f"{found.name} --pretrained {pretrained.name}#{described.sha256:.8}"
    profile = profile.with_pretrained(described)
    topology = profile.topology if isinstance(profile, LatentDiffusionProfile) else found.topology
    return replace(found, name=name, choose_network=profile, topology=topology)


def _describe_weights(path: Path, published: "EncoderUPlan | LatentDiffusionPlan") -> "PretrainedPlan":
    """Describes a file of weights for plans, after it was checked."""
    from autoseg.networks.cost import META
    from autoseg.networks.families import build_network
    from autoseg.networks.pretrained import describe_latents, describe_pretrained
    from autoseg.plan.network import EncoderUPlan

    if isinstance(published, EncoderUPlan):
        return describe_pretrained(path, published)
    with META:
        expected = build_network(published).state_dict()
    return describe_latents(path, published, expected)


def find_row(name: str, rows: Mapping[str, Row], *, kind: str) -> Row:
    """Finds the row of a table by its name.

    Args:
        kind: Name for such a row in the message.

    Raises:
        PlanError: There is no such row; the message lists the existing ones and suggests the nearest.
    """
    from autoseg.document import suggest_key

    if name not in rows:
        msg = f"no {kind} is called {name!r}{suggest_key(name, list(rows))}; choose one of: {', '.join(rows)}"
        raise PlanError(msg)
    return rows[name]


def _print_table(rows: Iterable[tuple[str, str]]) -> None:
    listed = list(rows)
    width = max(len(name) for name, _ in listed)
    for name, text in listed:
        typer.echo(f"{name:<{width}}  {text}")
