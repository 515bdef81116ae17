"""Prints the networks that a plan may choose, and what they cost for the patches of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

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

    Args:
        console: Console to print to.
        architectures: Architectures by name.
        run: Run folder.
        is_measured: Whether the time of a patch is measured as well.
    """
    from rich.table import Table

    from autoseg.document import read_document
    from autoseg.networks.throughput import time_window
    from autoseg.plan.document import PREFERRED_CONFIGURATIONS, Plan
    from autoseg.run_folder import open_run
    from autoseg.workflows.plan.planning import find_network_cost

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
        if configuration.dimensions == 2 and architecture.without_slices is not None:
            continue
        network, voxels = choose_for_patch(architecture, configuration)
        if any(extent <= 2 * margin for extent, margin in zip(voxels, network.margin_voxels, strict=True)):
            table.add_row(each, "patch too small")
            continue
        cost = find_network_cost(network, voxels, 2)  # some normalizations need two samples
        row = [each, f"{cost.parameter_count / 1e6:.2f}", f"{cost.multiply_adds / 2e9:.2f}"]
        if is_measured:
            row.append(f"{time_window(network, voxels) * 1000:.0f}")
        table.add_row(*row)
    console.show_table(table)


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
