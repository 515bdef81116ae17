"""A program that loads the libraries once and forks a process for every command.

`command_line.py` gives it to Python as text, with -c, so that worker processes do not import it. Each command has
arguments, working folder, streams and exit code of its own, as if a shell had started it. Commands that it starts
itself, one for every fold, are forked as well.
"""

import atexit
import ctypes
import gc
import inspect
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nibabel  # noqa: F401
import rich.console  # noqa: F401
import torch._dynamo  # noqa: F401  # torch loads the two with the first optimizer
import torch._inductor.config  # noqa: F401

import autoseg.workflows.evaluate.evaluation  # noqa: F401
import autoseg.workflows.exchange.importing  # noqa: F401
import autoseg.workflows.plan.machine_survey  # noqa: F401
import autoseg.workflows.plan.planning  # noqa: F401
import autoseg.workflows.predict.prediction  # noqa: F401
import autoseg.workflows.select.selection  # noqa: F401
import autoseg.workflows.train.dispatch  # noqa: F401
from autoseg.cli.app import main

MODULE = ["-m", "autoseg"]
COMMAND = [sys.executable, *MODULE]
ARGUMENTS_OF_A_CHILD = inspect.signature(subprocess.Popen._execute_child)
FIRST_FILE = 3  # after the standard streams
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP, CAPABILITY_VERSION = 1, 24, 0x20080522


def load_program(words: list[str]) -> str:
    """Loads a program that is like `autoseg`: its rows in the tables, and the file that worker processes import."""
    if words == MODULE:
        return str(Path(sys.modules["autoseg"].__file__).with_name("__main__.py"))
    (path,) = words
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path)
    sys.modules["__main__"].__file__ = path
    return path


def serve(program: list[str], path: str) -> None:
    """Starts commands, and tells their process numbers and exit codes."""
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], 0 if request["waits"] else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                become_command(request)
                run_command(program, path, request["arguments"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def become_command(request: dict) -> None:
    """Gives this process what a shell gives to a command: permissions, folder, environment, streams and signals."""
    if request["leads_group"]:
        os.setsid()
    if request["heeds_permissions"] and os.geteuid() == 0:
        heed_permissions()
    os.chdir(request["cwd"])
    for name, value in request["variables"].items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    for stream, name in enumerate((os.devnull, request["out"], request["err"])):
        os.dup2(os.open(name, os.O_RDWR), stream)
    sys.stdin = os.fdopen(0, closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def heed_permissions() -> None:
    """Gives up what lets the superuser write where nobody may, for good; also for programs that are started."""
    library = ctypes.CDLL(None)
    library.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    library.capget(header, sets)
    sets[:3] = [capabilities & ~(1 << CAP_DAC_OVERRIDE) for capabilities in sets[:3]]
    library.capset(header, sets)


def run_command(program: list[str], path: str, arguments: list[str]) -> None:
    """Runs a command in this process, which ends with it."""
    sys.argv = [path, *arguments]
    sys.orig_argv = [sys.executable, *program, *arguments]
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


def fork_child(process: subprocess.Popen, *arguments: object) -> None:
    """Takes the place of a method of `Popen`: forks a command `python -m autoseg`, starts any other."""
    given = ARGUMENTS_OF_A_CHILD.bind(process, *arguments).arguments
    words = [*given["args"]]
    if words[: len(COMMAND)] != COMMAND:
        EXECUTE_CHILD(process, *arguments)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    process.pid = os.fork()
    if process.pid == 0:
        become_child(given)
        run_command(MODULE, sys.argv[0], words[len(COMMAND) :])
    process._child_created = True
    ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
    process._close_pipe_fds(*(given[name] for name in ends))


def become_child(given: dict) -> None:
    """Gives this process the session, streams, environment and signals of a command that was started."""
    if given["start_new_session"]:
        os.setsid()
    for stream, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
        if given[name] != -1:
            os.dup2(given[name], stream)
    os.closerange(FIRST_FILE, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(given["env"])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(stream, mode, buffering=1, closefd=False) for stream, mode in enumerate("rww")
    )


EXECUTE_CHILD = subprocess.Popen._execute_child

if __name__ == "__main__":
    words = sys.argv[1:]
    path = load_program(words)
    if words == MODULE:
        subprocess.Popen._execute_child = fork_child
    gc.freeze()  # what is loaded is neither searched for garbage nor copied because of it
    serve(words, path)
