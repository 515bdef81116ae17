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

# A command takes three to five seconds to load its libraries. A process that has loaded them forks one for every
# command: with arguments, working folder, streams and exit code of its own, as if it had been started by a shell.
SERVER = """
import atexit, ctypes, gc, json, os, runpy, sys, threading
import autoseg.workflows.evaluate.evaluation, autoseg.workflows.exchange.importing, autoseg.workflows.plan.planning
import autoseg.workflows.plan.machine_survey, autoseg.workflows.predict.prediction
import autoseg.workflows.select.selection, autoseg.workflows.train.dispatch
import nibabel, rich.console, torch._dynamo, torch._inductor.config  # torch loads its two with the first optimizer
from autoseg.cli.app import main

program = sys.argv[1:]
if program == ["-m", "autoseg"]:
    path = os.path.join(os.path.dirname(sys.modules["autoseg"].__file__), "__main__.py")
else:
    (path,) = program
    sys.path.insert(0, os.path.dirname(path))
    runpy.run_path(path)  # its rows in the tables
    sys.modules["__main__"].__file__ = path  # which worker processes import
gc.freeze()  # what is loaded is neither searched for garbage nor copied because of it
for line in sys.stdin:
    command = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
else:
    sys.exit()

# Gives up what lets the superuser write where nobody may (CAP_DAC_OVERRIDE of Linux), for good.
def heed_permissions():
    library = ctypes.CDLL(None)
    library.prctl(24, 1)  # PR_CAPBSET_DROP: also for programs that are started
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    library.capget(header, sets)
    sets[:3] = [capabilities & ~2 for capabilities in sets[:3]]
    library.capset(header, sets)


if command["heeds_permissions"] and os.geteuid() == 0:
    heed_permissions()
os.chdir(command["cwd"])
for name, value in command["variables"].items():
    os.environ.pop(name, None) if value is None else os.environ.update({name: value})
for stream, path in enumerate((os.devnull, command["out"], command["err"])):
    os.dup2(os.open(path, os.O_RDWR), stream)
sys.stdin = open(os.devnull)
sys.argv = [path, *command["arguments"]]
sys.orig_argv = [sys.executable, *program, *command["arguments"]]
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code
except BaseException:
    sys.excepthook(*sys.exc_info())
    code = 1
# The end of an interpreter, without the second that it takes to free all that was loaded.
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code or 0)
"""


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
