"""`autoseg planners`: which sets of planning rules there are."""

import typer


def planners() -> None:
    """List the planners, for the option --planner of plan."""
    from planners import PLANNERS

    width = max(map(len, PLANNERS))
    for name, planner in PLANNERS.items():
        typer.echo(f"{name:<{width}}  {planner.description}")
