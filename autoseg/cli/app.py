"""Defines the `autoseg` command, its subcommands and the reporting of errors."""

import errno
import functools
import inspect
import re
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import typer

from autoseg.cli.cancel import cancel
from autoseg.cli.choices import architectures, losses, planners
from autoseg.cli.dataset.check import check
from autoseg.cli.dataset.convert import convert
from autoseg.cli.dataset.init import init
from autoseg.cli.demo import demo
from autoseg.cli.doctor import doctor
from autoseg.cli.evaluate import evaluate
from autoseg.cli.export import export
from autoseg.cli.import_model import import_model
from autoseg.cli.plan import plan
from autoseg.cli.predict import predict
from autoseg.cli.preprocess import preprocess
from autoseg.cli.refine import refine
from autoseg.cli.report import report
from autoseg.cli.select import select
from autoseg.cli.status import status
from autoseg.cli.synthesize import synthesize
from autoseg.cli.terminal.console import ERRORS_OF_A_FULL_DISK, build_stop_request, flush_output, open_closed_streams
from autoseg.cli.terminal.repeated_options import SingleValueCommand
from autoseg.cli.train import train
from autoseg.cli.urls import accept_urls, name_urls
from autoseg.cli.version import show_version
from autoseg.cli.view import view
from autoseg.errors import AutosegError, DeviceError, LockError, WorkerError
from autoseg.processes.parent_watch import stop_with_parent
from autoseg.processes.signals import TERMINATION_SIGNALS, find_signal

Command = Callable[..., None]
HINTS: Final = {
    **dict.fromkeys(
        ("convert", "plan", "preprocess", "train", "select", "predict", "import_model", "synthesize"),
        "what is finished is kept; repeat the command to continue",
    ),
    **dict.fromkeys(
        ("init", "check", "evaluate", "export", "report", "view", "refine"),
        "nothing is kept; repeat the command to begin again",
    ),
    "demo": "begin again with --overwrite",
}
"""Hints for continuing after an interruption by command; commands that only show something have none."""
FLAGS_THAT_DISCARD: Final = ("overwrite", "restart")

EXAMINATION: Final = "`autoseg doctor RUN` checks this machine"
ERRORS_OF_THE_SYSTEM: Final = frozenset(
    getattr(errno, name)
    for name in ["EAGAIN", "EDQUOT", "EIO", "EMFILE", "ENFILE", "ENOLCK", "ENOMEM", "ENOSPC", "EROFS", "ESTALE"]
    if hasattr(errno, name)
)
"""Errors of the operating system whose cause is the machine or its disks, and not a file."""
SIGNS_OF_THE_MACHINE: Final = re.compile(
    r"\b(?:was killed|has died|too little memory|ran out of memory|CUDA error|No space left on|quota exceeded"
    r"|Too many open files|Input/output error|Stale file handle|Read-only file system|Cannot allocate memory"
    r"|No locks available|Resource temporarily unavailable)\b",
    flags=re.IGNORECASE,
)
"""Phrases by which errors of other processes, whose class is lost, show the same, and that their processes died."""

EXIT_USER_ERROR = 1
EXIT_SIGNAL = 128  # the shell's convention, plus the number of the signal: 130 for Ctrl-C, 143 for SIGTERM


def explain_interruption(command: Command) -> Command:
    """Wraps a command so that a request to end (Ctrl-C, SIGTERM, a closed terminal) ends it with one line."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        try:
            with build_stop_request().handle_signals(TERMINATION_SIGNALS):
                command(*arguments, **options)
        except KeyboardInterrupt as interruption:
            # The command ends in any case; a second request would truncate the line.
            for name in ("SIGINT", *TERMINATION_SIGNALS):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
            number = find_signal(interruption)
            hint = name_urls(str(interruption)) or find_hint(command.__name__, options)
            by = "" if number == signal.SIGINT else f" by {number.name}"
            with suppress(OSError):  # the terminal may be closed
                typer.echo(f"\nautoseg: stopped{by}{': ' if hint else ''}{hint}", err=True)
            raise typer.Exit(EXIT_SIGNAL + number) from None

    return run


def find_hint(command: str, options: Mapping[str, object]) -> str:
    """Finds the hint for an interruption whose message does not explain how to continue."""
    hint = HINTS.get(command, "")
    given = [name for name in FLAGS_THAT_DISCARD if options.get(name)]
    if given and hint.endswith("continue"):
        return f"repeat the command without --{given[0]} to keep what is finished, with it to begin again"
    return hint


def describe_briefly(command: Command) -> str:
    """Describes a command by its docstring up to the first full stop or semicolon, for the list of all commands."""
    return " ".join(re.split(r"[.;](?:\s|$)", inspect.getdoc(command) or "", maxsplit=1)[0].split())


app = typer.Typer(
    name="autoseg",
    help="From a folder of labelled medical images to a trained, validated segmentation model.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help renders in a tenth of a second
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(show_version)
for command in (
    convert,
    init,
    check,
    plan,
    preprocess,
    train,
    status,
    cancel,
    select,
    predict,
    evaluate,
    export,
    demo,
    planners,
    architectures,
    losses,
    doctor,
    report,
    view,
    refine,
    synthesize,
):
    app.command(cls=SingleValueCommand, short_help=describe_briefly(command))(
        explain_interruption(accept_urls(command))
    )
# A function cannot have this name.
app.command("import", cls=SingleValueCommand, short_help=describe_briefly(import_model))(
    explain_interruption(accept_urls(import_model))
)


def find_own_command() -> tuple[str, ...]:
    """Finds how this process was started, without the arguments, so that it can start further ones alike.

    A program that adds its own networks or losses to autoseg's tables and then calls `main` needs them there, too. For
    one that sets `sys.argv` itself, it is `python -m autoseg`.
    """
    end = len(sys.orig_argv) - len(sys.argv) + 1
    if end < 2 or sys.orig_argv[end:] != sys.argv[1:]:
        return (sys.executable, "-m", "autoseg")
    return (sys.executable, *sys.orig_argv[1:end])


def main() -> None:
    """Runs the command line; errors of the user end it with a message and exit code 1, without a traceback."""
    from autoseg.processes.library_output import silence_libraries

    open_closed_streams()
    stop_with_parent()
    silence_libraries()
    try:
        # The name is for shell completion, also with `python -m autoseg`.
        app(prog_name="autoseg", obj=find_own_command())
    except AutosegError as error:
        sys.stderr.write(f"autoseg: error: {name_urls(str(error))}{suggest_examination(error)}\n")
        sys.exit(EXIT_USER_ERROR)
    except Exception as error:
        if (
            isinstance(error, OSError) and error.errno in ERRORS_OF_A_FULL_DISK
        ):  # files of a run have errors of their own
            where = "free space where the output and temporary files go, then repeat the command"
            sys.stderr.write(f"autoseg: error: cannot write: {error.strerror}; {where}\n")
            sys.exit(EXIT_USER_ERROR)
        sys.stderr.write(f"autoseg: an unexpected error; {EXAMINATION}, which may be the cause\n")
        raise
    finally:
        flush_output()  # the interpreter would do it with an error of its own


def suggest_examination(error: AutosegError) -> str:
    """Suggests `autoseg doctor` for an error that may come from the machine; empty for others."""
    is_of_machine = isinstance(error, DeviceError | WorkerError | LockError) or has_cause_in_system(error)
    return f"\n({EXAMINATION})" if is_of_machine or SIGNS_OF_THE_MACHINE.search(str(error)) else ""


def has_cause_in_system(error: BaseException) -> bool:
    """Returns whether an error, or one that caused it, is an error of the operating system due to the machine."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in ERRORS_OF_THE_SYSTEM:
            return True
        cause = cause.__cause__
    return False
