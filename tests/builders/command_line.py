"""Runs of the command line in processes of their own."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# A command takes five to seven seconds of the CPU to load its libraries, which this program loads once.
SERVER = Path(__file__).with_name("command_server.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


AUTOSEG = (sys.executable, "-m", "autoseg")
READ_WHEN_USED = {
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME", "HOSTNAME"),
    *("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_MAX_ATTEMPTS"),
}
"""Variables that no library reads when it is loaded, but matplotlib, whose settings no test is about.

Others that change need a process of their own."""


class CommandServer:
    """A process that has loaded the libraries and forks one for every command."""

    def __init__(self, program: Sequence[str]) -> None:
        self._environment = read_environment()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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

    def ask(self, request: Mapping[str, object]) -> int | None:
        """Sends a request and returns the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path | None = None,
        *,
        heeds_permissions: bool = False,
        leads_group: bool = False,
    ) -> "StartedCommand":
        """Starts `autoseg` with these arguments.

        Args:
            arguments: Arguments.
            cwd: Working folder.
            heeds_permissions: Whether the superuser has the permissions of a user.
            leads_group: Whether it leads a process group of its own.
        """
        out, err = tempfile.NamedTemporaryFile(), tempfile.NamedTemporaryFile()  # noqa: SIM115  # closed with the command
        place = {"variables": self.find_changes(), "cwd": str(cwd or Path.cwd()), "out": out.name, "err": err.name}
        settings = {"heeds_permissions": heeds_permissions, "leads_group": leads_group}
        pid = self.ask({"arguments": arguments, **settings, **place})
        assert pid is not None
        return StartedCommand(server=self, pid=pid, out=out, err=err)

    def run(self, arguments: Sequence[str], cwd: Path | None, *, heeds_permissions: bool = False) -> Done:
        """Runs `autoseg` with these arguments to its end."""
        return self.start(arguments, cwd, heeds_permissions=heeds_permissions).finish()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=60)


@dataclass(kw_only=True)
class StartedCommand:
    """A command that runs."""

    server: CommandServer
    pid: int
    out: Any
    err: Any
    code: int | None = None

    def poll(self, *, waits: bool = False) -> int | None:
        """Returns the exit code, negative for a signal; None while it runs."""
        if self.code is None:
            self.code = self.server.ask({"poll": self.pid, "waits": waits})
        return self.code

    def finish(self) -> Done:
        """Waits for its end and returns how it ended."""
        code = self.poll(waits=True)
        assert code is not None
        with self.out, self.err:
            return Done(code=code, out=self.out.read().decode(), err=self.err.read().decode())


def read_environment() -> dict[str, str]:
    """The environment variables without the one in which pytest names the running test."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@cache
def start_server(program: Sequence[str]) -> CommandServer:
    """Starts the server of a program in this process, once."""
    return CommandServer(program)


def start_autoseg(*arguments: object) -> StartedCommand:
    """Starts `autoseg` with these arguments in a process group of its own, with its libraries already loaded."""
    return start_server(AUTOSEG[1:]).start([*map(str, arguments)], leads_group=True)


def run_autoseg(*arguments: object, cwd: Path | None = None, autoseg: Sequence[str] = AUTOSEG) -> Done:
    """Runs `autoseg`, or a command like it, with these arguments to its end."""
    words = list(map(str, arguments))
    if hasattr(os, "fork") and start_server(autoseg[1:]).find_changes().keys() <= READ_WHEN_USED:
        return start_server(autoseg[1:]).run(words, cwd)
    done = subprocess.run([*autoseg, *words], capture_output=True, encoding="utf-8", check=False, cwd=cwd)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)
