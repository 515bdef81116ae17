"""Values that the shell offers for an option (`autoseg --install-completion`); a key press waits for them.

Nothing heavy is imported: a run is asked by its JSON files, and the names of the planners stand here once more.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

PLANNERS = ("default", "residual-m", "residual-l", "residual-xl", "lite")
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
FOLDS = ("0", "1", "2", "3", "4")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")  # not cuda:1, as bash takes a colon for the end of a word


def complete_planner(incomplete: str) -> list[str]:
    """For `--planner`."""
    return _select(PLANNERS, incomplete)


def complete_configuration(ctx: typer.Context, incomplete: str) -> list[str]:
    """For `--configuration`: those of the run that the command line names before, else the usual ones."""
    planned = _read_run(ctx, "plan.json").get("configurations")
    return _select(planned if isinstance(planned, dict) else CONFIGURATIONS, incomplete)


def complete_fold(ctx: typer.Context, incomplete: str) -> list[str]:
    """For `--fold`: those of the run that the command line names before, else five; and "all"."""
    folds = _read_run(ctx, "splits.json").get("folds")
    names = map(str, range(len(folds))) if isinstance(folds, list) else FOLDS
    return _select((*names, "all"), incomplete)


def complete_device(incomplete: str) -> list[str]:
    """For `--device`."""
    return _select(DEVICES, incomplete)


def complete_precision(incomplete: str) -> list[str]:
    """For `--precision`."""
    return _select(PRECISIONS, incomplete)


def _select(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _read_run(ctx: typer.Context, name: str) -> dict[str, Any]:
    """A document of the run; empty where there is none that can be read, for nobody expects errors from a key."""
    import json

    arguments = [parameter.name for parameter in ctx.command.params if parameter.param_type_name == "argument"]
    if arguments[:1] != ["run"] or not ctx.args:  # with an option unfinished, arguments are still plain words
        return {}
    try:
        content = json.loads((Path(ctx.args[0]).expanduser() / name).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RuntimeError):  # missing, no JSON, ~somebody who is unknown
        return {}
    return content if isinstance(content, dict) else {}
