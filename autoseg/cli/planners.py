"""`autoseg planners` and `autoseg architectures`: list what `autoseg plan` chooses from."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from autoseg.errors import OptionError, PlanError

if TYPE_CHECKING:
    from autoseg.workflows.plan.planning import PlannerLike

Row = TypeVar("Row")


def planners() -> None:
    """List the planners that `autoseg plan --planner` accepts."""
    from planners import PLANNERS

    width = max(map(len, PLANNERS))
    for name, planner in PLANNERS.items():
        typer.echo(f"{name:<{width}}  {planner.description}")


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


def find_planner(name: str, architecture: str | None = None) -> "PlannerLike":
    """Finds a planner by its name, for the networks of an architecture.

    Args:
        name: Key of `planners.PLANNERS`.
        architecture: Key of `planners.ARCHITECTURES`; None: those that the planner chooses by itself.

    Raises:
        PlanError: There is no such planner or architecture; the message lists the existing ones.
    """
    from planners import ARCHITECTURES, PLANNERS

    planner = find_row(name, PLANNERS, kind="planner")
    if architecture is None:
        return planner
    return planner.with_architecture(find_row(architecture, ARCHITECTURES, kind="architecture"))


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
