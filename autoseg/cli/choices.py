"""`autoseg planners`, `autoseg losses`: list what `autoseg plan` can be asked for."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import typer

from autoseg.errors import PlanError

if TYPE_CHECKING:
    from autoseg.workflows.plan.planning import PlannerLike

DEFAULT_LOSS: Final = "dice+cross_entropy"  # what every planner chooses by itself


def planners() -> None:
    """List the planners that `autoseg plan --planner` accepts."""
    from planners import PLANNERS

    _print_table((name, planner.description) for name, planner in PLANNERS.items())


def losses() -> None:
    """List the losses that `autoseg plan --loss` accepts."""
    from planners.losses import LOSS_RULES

    _print_table((name, f"{rule.description} ({rule.source} {rule.year})") for name, rule in LOSS_RULES.items())
    typer.echo(f"\nNames joined by + are added up; the default is {DEFAULT_LOSS}.")


def find_planner(name: str, *, loss: str = DEFAULT_LOSS) -> "PlannerLike":
    """Finds a planner by its name, and replaces its loss.

    Raises:
        PlanError: There is no such planner or loss; the message lists the existing ones.
    """
    from planners import PLANNERS
    from planners.losses import LossPlanner

    if name not in PLANNERS:
        msg = f"no planner is called {name!r}; choose one of: {', '.join(PLANNERS)}"
        raise PlanError(msg)
    return PLANNERS[name] if loss == DEFAULT_LOSS else LossPlanner(planner=PLANNERS[name], loss=loss)


def _print_table(rows: Iterable[tuple[str, str]]) -> None:
    listed = list(rows)
    width = max(len(name) for name, _ in listed)
    for name, text in listed:
        typer.echo(f"{name:<{width}}  {text}")
