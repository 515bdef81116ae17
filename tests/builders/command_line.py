"""Runs of the command line in processes of their own."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_autoseg(*arguments: object, cwd: Path | None = None) -> Done:
    """Runs `autoseg` with these arguments to its end."""
    command = [sys.executable, "-m", "autoseg", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)
