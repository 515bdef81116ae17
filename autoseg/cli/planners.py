"""`autoseg planners`: list the sets of planning rules."""

import typer


def planners() -> None:
    """List the planners that `autoseg plan --planner` accepts."""
    from planners import PLANNERS

    width = max(map(len, PLANNERS))
    for name, planner in PLANNERS.items():
        typer.echo(f"{name:<{width}}  {planner.description}")
