"""Runs of the command line in processes of their own."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


AUTOSEG = (sys.executable, "-m", "autoseg")


def run_autoseg(*arguments: object, cwd: Path | None = None, autoseg: Sequence[str] = AUTOSEG) -> Done:
    """Runs `autoseg`, or a command like it, with these arguments to its end."""
    command = [*autoseg, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)
