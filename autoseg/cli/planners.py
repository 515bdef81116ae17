"""`autoseg planners`: list the sets of planning rules."""

from typing import TYPE_CHECKING

import typer

from autoseg.errors import PlanError

if TYPE_CHECKING:
    from autoseg.workflows.plan.planning import PlannerLike


def planners() -> None:
    """List the planners that `autoseg plan --planner` accepts."""
    from planners import PLANNERS

    width = max(map(len, PLANNERS))
    for name, planner in PLANNERS.items():
        typer.echo(f"{name:<{width}}  {planner.description}")


def find_planner(name: str) -> "PlannerLike":
    """Finds a planner by its name.

    Raises:
        PlanError: There is no such planner; the message lists the existing ones.
    """
    from planners import PLANNERS

    if name not in PLANNERS:
        msg = f"no planner is called {name!r}; choose one of: {', '.join(PLANNERS)}"
        raise PlanError(msg)
    return PLANNERS[name]
