"""Prints the networks that a plan may choose, and what they cost for the patches of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from autoseg.errors import PlanError

if TYPE_CHECKING:
    from autoseg.cli.terminal.console import Console
    from autoseg.plan.document import ConfigurationPlan
    from autoseg.plan.network import NetworkPlan
    from planners.architectures.architecture import Architecture

COST_HEADINGS: Final = ("architecture", "parameters (M)", "multiply-adds (G)", "patch (ms)")


def print_architectures(architectures: "Mapping[str, Architecture]") -> None:
    """Prints the name, the sentence, the source and the year of the first publication of each."""
    width = max(map(len, architectures))
    for name, architecture in architectures.items():
        typer.echo(f"{name:<{width}}  {architecture.sentence}")
        year = "" if str(architecture.year) in architecture.source else f"; first in {architecture.year}"
        typer.echo(f"{'':<{width}}  ({architecture.source}{year})")


def print_costs(
    console: "Console", architectures: "Mapping[str, Architecture]", run: Path, *, is_measured: bool
) -> None:
    """Prints a table of what the network of each costs for the patch of the preferred configuration of a run.

    Networks that find objects are left out where the run tells none apart, those for volumes alone in 2D.

    Args:
        console: Console to print to.
        architectures: Architectures by name.
        run: Run folder.
        is_measured: Whether the time of a patch is measured as well.
    """
    from rich.table import Table
    from rich.text import Text

    from autoseg.document import read_document
    from autoseg.plan.document import PREFERRED_CONFIGURATIONS, Plan
    from autoseg.run_folder import open_run

    plan = read_document(open_run(run).plan, Plan)
    name = next(
        (name for name in PREFERRED_CONFIGURATIONS if name in plan.configurations), next(iter(plan.configurations))
    )
    configuration = plan.configurations[name]
    patch = " x ".join(map(str, configuration.patch_voxels))
    table = Table(title=f"Networks for a patch of {patch} voxels ({name})", title_justify="left")
    for heading in COST_HEADINGS if is_measured else COST_HEADINGS[:-1]:
        table.add_column(heading, justify="left" if heading == COST_HEADINGS[0] else "right")
    for each, architecture in architectures.items():
        is_for_volumes = configuration.dimensions == 2 and architecture.without_slices is not None
        if is_for_volumes or (architecture.needs_instances and plan.instances is None):
            continue
        try:
            cells = format_cost(architecture, configuration, is_measured=is_measured)
        except PlanError as error:
            cells = (f"not for this plan: {error}",)
        table.add_row(each, *map(Text, cells))
    console.show_table(table)


def format_cost(
    architecture: "Architecture", configuration: "ConfigurationPlan", *, is_measured: bool
) -> tuple[str, ...]:
    """Formats what the network of an architecture costs for the patch of a configuration, a cell each.

    Raises:
        PlanError: There is no such network.
    """
    from autoseg.networks.throughput import time_window
    from autoseg.workflows.plan.planning import find_network_cost

    network, voxels = choose_for_patch(architecture, configuration)
    if any(extent <= 2 * margin for extent, margin in zip(voxels, network.margin_voxels, strict=True)):
        return ("patch too small",)
    cost = find_network_cost(network, voxels, 2)  # some normalizations need two samples
    counted = (f"{cost.parameter_count / 1e6:.2f}", f"{cost.multiply_adds / 2e9:.2f}")
    return (*counted, f"{time_window(network, voxels) * 1000:.0f}") if is_measured else counted


def choose_for_patch(
    architecture: "Architecture", configuration: "ConfigurationPlan"
) -> "tuple[NetworkPlan, tuple[int, ...]]":
    """Chooses the network for the patch of a configuration; returns also that patch as the network takes it."""
    topology = architecture.topology.compute(configuration.patch_spacing_mm, configuration.patch_voxels)
    network, _ = architecture.choose_network(
        topology,
        input_channels=configuration.network.input_channels,
        output_channels=configuration.network.output_channels,
    )
    return network, topology.patch_voxels
