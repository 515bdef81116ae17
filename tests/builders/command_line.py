"""Runs of the command line in processes of their own."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# A command takes five to seven seconds of the CPU to load its libraries, which this program loads once.
SERVER = Path(__file__).with_name("command_server.py")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


AUTOSEG = (sys.executable, "-m", "autoseg")
READ_WHEN_USED = {
    *("XDG_CACHE_HOME", "USER", "LOGNAME", "HOSTNAME"),
    *("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"),
}
"""Variables that no library reads when it is loaded; others that change need a process of their own."""


class CommandServer:
    """A process that has loaded the libraries and forks one for every command."""

    def __init__(self, program: Sequence[str]) -> None:
        self._environment = read_environment()
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.close)

    def find_changes(self) -> dict[str, str | None]:
        """The environment variables that differ from those of the process; None: removed."""
        now = read_environment()
        return {
            name: now.get(name)
            for name in now.keys() | self._environment.keys()
            if now.get(name) != self._environment.get(name)
        }

    def run(self, arguments: Sequence[str], cwd: Path | None, *, heeds_permissions: bool = False) -> Done:
        """Runs `autoseg` with these arguments to its end, for the superuser with the permissions of a user."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            variables = self.find_changes()
            place = {"variables": variables, "cwd": str(cwd or Path.cwd()), "out": out.name, "err": err.name}
            command = {"arguments": arguments, "heeds_permissions": heeds_permissions, **place}
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return Done(code=code, out=out.read().decode(), err=err.read().decode())

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=60)


def read_environment() -> dict[str, str]:
    """The environment variables without the one in which pytest names the running test."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@cache
def start_server(program: Sequence[str]) -> CommandServer:
    """Starts the server of a program in this process, once."""
    return CommandServer(program)


def run_autoseg(*arguments: object, cwd: Path | None = None, autoseg: Sequence[str] = AUTOSEG) -> Done:
    """Runs `autoseg`, or a command like it, with these arguments to its end."""
    words = list(map(str, arguments))
    if hasattr(os, "fork") and start_server(autoseg[1:]).find_changes().keys() <= READ_WHEN_USED:
        return start_server(autoseg[1:]).run(words, cwd)
    done = subprocess.run([*autoseg, *words], capture_output=True, encoding="utf-8", check=False, cwd=cwd)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)
