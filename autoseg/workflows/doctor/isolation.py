"""Measurements in processes of their own, so that one that hangs or crashes costs its own result and nothing else.

A file system whose server is gone, or a driver that hangs, blocks the process that asks it, often beyond any signal. A
broken library may end it. So the examination measures in child processes, waits for each up to a limit, and never
waits for one that it has given up.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, get_type_hints

from autoseg.document import Part

PROGRAM: Final = f"from {__name__} import main; main()"
ANSWER: Final = "autoseg doctor: "
"""Beginning of the line with the result; libraries may print others."""
LONGEST_REASON: Final = 300  # characters
SECONDS_TO_DIE: Final = 0.3
SECONDS_TO_READ: Final = 0.2  # a result that is there although another measurement took all the time


class NoAnswerError(Exception):
    """A measurement gave no result; the text says why.

    Attributes:
        is_late: Whether the time limit was exceeded.
    """

    def __init__(self, reason: str, *, is_late: bool = False) -> None:
        super().__init__(reason)
        self.is_late = is_late


class Measurement:
    """A measurement that runs in a child process from its construction on."""

    def __init__(self, measure: Callable[[Path], Part], folder: Path) -> None:
        self._kind = get_type_hints(measure)["return"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, measure.__module__, measure.__name__, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            encoding="utf-8",
        )

    def wait(self, limit_seconds: float) -> Part:
        """Waits for the result.

        Raises:
            NoAnswerError: There is none within the limit, or the process failed.
        """
        try:
            out, err = self._process.communicate(timeout=max(SECONDS_TO_READ, limit_seconds))
        except subprocess.TimeoutExpired:
            give_up(self._process)
            msg = "no answer in time"
            raise NoAnswerError(msg, is_late=True) from None
        answers = [line.removeprefix(ANSWER) for line in out.splitlines() if line.startswith(ANSWER)]
        if self._process.returncode != 0 or not answers:
            raise NoAnswerError(_describe_end(self._process.returncode, err))
        result: Part = self._kind.model_validate_json(answers[-1])
        return result


def give_up(process: "subprocess.Popen[str]") -> None:
    """Kills a process, and waits no longer for one that is blocked and outlives even that."""
    process.kill()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_DIE)


def main() -> None:
    """Runs a measurement whose module, name and folder are the arguments, and prints its result."""
    module, name, folder = sys.argv[1:]
    measure: Callable[[Path], Part] = getattr(importlib.import_module(module), name)
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # whatever the locale is
    sys.stdout.write(f"\n{ANSWER}{measure(Path(folder)).model_dump_json()}\n")


def _describe_end(code: int, err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    reason = lines[-1][:LONGEST_REASON] if lines else "no message"
    return f"the process was killed by signal {-code} ({reason})" if code < 0 else reason
