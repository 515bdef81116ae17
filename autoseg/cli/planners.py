"""`autoseg planners` and `autoseg architectures`: list what `autoseg plan` chooses from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import typer

from autoseg.errors import PlanError

if TYPE_CHECKING:
    from autoseg.workflows.plan.planning import PlannerLike

Row = TypeVar("Row")


def planners() -> None:
    """List the planners that `autoseg plan --planner` accepts."""
    from planners import PLANNERS

    width = max(map(len, PLANNERS))
    for name, planner in PLANNERS.items():
        typer.echo(f"{name:<{width}}  {planner.description}")


def architectures() -> None:
    """List the networks that `autoseg plan --architecture` accepts."""
    from planners import ARCHITECTURES

    width = max(map(len, ARCHITECTURES))
    for name, architecture in ARCHITECTURES.items():
        typer.echo(f"{name:<{width}}  {architecture.sentence}")
        typer.echo(f"{'':<{width}}  ({architecture.source})")


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
