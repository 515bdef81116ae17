"""The command line's surface is frozen, loads lazily, and reports errors without tracebacks."""

import functools
import inspect
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
import typer.main

from autoseg.cli.app import app, explain_interruption, find_own_command
from autoseg.cli.dataset.check import check
from autoseg.cli.demo import demo
from autoseg.cli.plan import plan
from autoseg.cli.predict import predict
from autoseg.cli.select import select
from autoseg.cli.status import status
from autoseg.cli.terminal.options import list_given_options
from autoseg.cli.terminal.repeated_options import TAKEN_SEVERAL_TIMES
from autoseg.cli.train import train
from autoseg.errors import Stopped
from autoseg.processes.signals import TERMINATION_SIGNALS, StopSignal, list_unignored_signals

EXPECTED_FLAGS = {
    "convert": {"--layout", "--workers", "--overwrite"},
    "init": {"--images", "--labels", "--workers", "--overwrite"},
    "check": {"--group-by", "--splits", "--fix-geometry", "--workers", "--all", "--json"},
    "plan": {
        "--run", "--planner", "--architecture", "--pretrained", "--loss", "--memory-gb", "--budget", "--configuration",
        "--group-by", "--splits", "--fix-geometry", "--no-preprocess", "--workers", "--overwrite", "--on", "--slurm",
        "--refine", "--task", "--targets", "--head", "--part", "--plausibility", "--dry-run",
    },
    "preprocess": {"--configuration", "--workers", "--on", "--slurm", "--dry-run"},
    "train": {
        "--configuration", "--fold", "--epochs", "--extend", "--budget", "--until-plateau", "--precision", "--device",
        "--devices", "--parallel", "--workers", "--deterministic", "--log-to", "--seed", "--init",
        "--synthetic", "--teacher", "--restart", "--on", "--nodes", "--slurm", "--dry-run",
    },
    "cancel": {"--configuration", "--fold"},
    "status": {"--watch", "--json"},
    "select": {
        "--configuration", "--fold", "--no-ensembles", "--no-variants", "--device", "--on", "--slurm", "--dry-run",
    },
    "predict": {
        "--configuration", "--fold", "--mirroring", "--no-mirroring", "--step-fraction", "--decoding", "--budget",
        "--no-postprocessing", "--save-probabilities", "--attention-maps", "--uncertainty", "--device", "--precision",
        "--execution", "--series", "--format", "--terms", "--overwrite", "--on", "--slurm", "--dry-run",
    },
    "evaluate": {"--run", "--on", "--slurm", "--dry-run", "--instances"},
    "import": {"--configuration", "--fold", "--checkpoint", "--any-trainer", "--overwrite"},
    "export": {"--format", "--output", "--configuration", "--fold", "--overwrite"},
    "demo": {"--overwrite"},
    "planners": set(),
    "architectures": {"--measure"},
    "losses": set(),
    "doctor": {"--json"},
    "report": {"--predictions", "--images", "--out"},
    "view": {"--series", "--out", "--no-open"},
    "refine": {"--clicks", "--out", "--configuration", "--fold", "--device", "--overwrite"},
    "synthesize": {
        "--configuration", "--fold", "--cases", "--epochs", "--budget", "--device", "--workers", "--seed", "--restart",
        "--out",
    },
}  # fmt: skip


def list_flags() -> dict[str, set[str]]:
    group = typer.main.get_command(app)
    flags = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        flags[name] = {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--") and option != "--help"
        }
    return flags


def test_commands_and_flags_are_exactly_those_that_users_script_against() -> None:
    assert list_flags() == EXPECTED_FLAGS


def test_a_second_value_of_an_option_that_takes_one_is_refused_and_not_taken_for_the_first() -> None:
    group = typer.main.get_command(app)
    takes_several: dict[str, set[bool]] = {}
    for command in group.commands.values():  # type: ignore[attr-defined]
        for option in command.params:
            if option.param_type_name == "option":
                takes_several.setdefault(option.opts[0], set()).add(option.multiple)
    mixed = {name for name, kinds in takes_several.items() if len(kinds) > 1}
    assert mixed == set(TAKEN_SEVERAL_TIMES)
    for words in (("predict", "run", "images", "out"), ("train", "run"), ("export", "run")):
        named = ("--configuration", "2d", "--configuration", "3d_fullres")
        done = subprocess.run([sys.executable, "-m", "autoseg", *words, *named], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--configuration" in done.stderr
        assert "it takes one value here, found 2; run the command once for each" in " ".join(done.stderr.split())
        asked = [sys.executable, "-m", "autoseg", *words, *named, "--help"]
        done = subprocess.run(asked, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: " in done.stdout
    several = ["select", "no_such_run", "--configuration", "2d", "--configuration", "3d_fullres"]
    done = subprocess.run([sys.executable, "-m", "autoseg", *several], capture_output=True, text=True)
    assert done.returncode == 1


def test_every_option_that_changes_a_plan_is_recorded_as_it_was_given() -> None:
    given = {
        "planner": "timed",
        "architecture": "attention_unet",
        "part": ["block=rep"],
        "pretrained": Path("a b.pth"),
        "head": "point_rend",
        "loss": "dice+focal",
        "plausibility": True,
        "task": "instances",
        "targets": "centre_distance",
        "memory_gb": 8.5,
        "budget": "8h",
        "configuration": ["2d", "3d_fullres"],
        "group_by": r"case\d",
        "splits": Path("folds.json"),
        "fix_geometry": True,
        "refine": ["2d"],
    }
    others = {"run": Path("r"), "no_preprocess": True, "workers": 2, "overwrite": True, "on": "slurm", "slurm": ["a=b"]}
    others["dry_run"] = True
    assert {f"--{name.replace('_', '-')}" for name in given | others} == EXPECTED_FLAGS["plan"]
    dataset = {"dataset": Path("data")}
    expected = (
        *("--planner", "timed", "--architecture", "attention_unet", "--part", "block=rep", "--pretrained", "a b.pth"),
        *("--head", "point_rend"),
        *("--loss", "dice+focal", "--plausibility", "--task", "instances", "--targets", "centre_distance"),
        *("--memory-gb", "8.5", "--budget", "8h"),
        *("--configuration", "2d", "--configuration", "3d_fullres", "--group-by", r"case\d", "--splits", "folds.json"),
        *("--fix-geometry", "--refine", "2d"),
    )
    assert list_given_options(plan, dataset | given | others) == expected
    usual = {name: parameter.default for name, parameter in inspect.signature(plan).parameters.items()}
    assert list_given_options(plan, usual | dataset | others) == ()


def test_the_list_of_commands_cuts_no_sentence() -> None:
    listed = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    texts = {name: entry.get_short_help_str(limit=200) for name, entry in listed.items()}
    assert texts["synthesize"] == "Make synthetic training cases for autoseg train --synthetic"
    assert [name for name, text in texts.items() if not 10 < len(text) <= 100 or text.endswith("...")] == []
    shown = subprocess.run([sys.executable, "-m", "autoseg", "--help"], capture_output=True, text=True, check=True)
    assert "..." not in shown.stdout.split("Commands:")[1]


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in EXPECTED_FLAGS)])
def test_help_imports_neither_torch_nor_numpy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['autoseg', *{arguments!r}]\n"
        "from autoseg.cli.app import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert stop.code in (0, None), stop.code\n"
        "heavy = {'torch', 'numpy', 'rich', 'SimpleITK', 'nibabel', 'planners'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_ctrl_c_while_the_command_line_is_loaded_shows_no_traceback() -> None:
    code = (
        "import runpy, sys\n"
        "class Interrupted:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted)\n"
        "runpy.run_module('autoseg', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nautoseg: stopped\n")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"autoseg": "autoseg.__main__:main"}


@pytest.mark.parametrize(
    ("started", "arguments", "command"),
    [
        (["python", "-u", "-m", "autoseg", "train", "run"], ["train", "run"], ["-u", "-m", "autoseg"]),
        (["python", "/bin/autoseg", "train", "run"], ["train", "run"], ["/bin/autoseg"]),
        (["python", "more_networks.py", "train", "run"], ["train", "run"], ["more_networks.py"]),
        (["python", "script.py", "7"], ["train", "run"], ["-m", "autoseg"]),
        (["python"], ["train", "run"], ["-m", "autoseg"]),
    ],
)
def test_further_processes_are_started_as_this_one_was(
    monkeypatch: pytest.MonkeyPatch, started: list[str], arguments: list[str], command: list[str]
) -> None:
    monkeypatch.setattr(sys, "orig_argv", started)
    monkeypatch.setattr(sys, "argv", ["autoseg", *arguments])
    assert find_own_command() == (sys.executable, *command)


def interrupt(command: Callable[..., None], error: KeyboardInterrupt, **options: object) -> None:
    """Ends a command by Ctrl-C; the wrapped function is told from others by what it is, so the work is put into it."""

    @functools.wraps(command)
    def work(**given: object) -> None:
        raise error

    with pytest.raises(typer.Exit) as stop:
        explain_interruption(work)(**options)
    assert stop.value.exit_code == 130


@pytest.fixture
def _ctrl_c_restored() -> Iterator[None]:
    numbers = list_unignored_signals(("SIGINT", *TERMINATION_SIGNALS))
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_ctrl_c_restored")
def test_an_interrupted_command_says_how_to_continue(capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(select, KeyboardInterrupt())
    assert capsys.readouterr().err == "\nautoseg: stopped: what is finished is kept; repeat the command to continue\n"
    interrupt(train, Stopped("saved in epoch 3; the same command continues"))
    assert capsys.readouterr().err == "\nautoseg: stopped: saved in epoch 3; the same command continues\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process instead")
@pytest.mark.usefixtures("_ctrl_c_restored")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_every_command_answers_requests_to_end_with_a_message_and_a_code_that_tell_which(
    capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    commands = [info.callback for info in app.registered_commands if info.callback is not None]
    assert len(commands) == len(EXPECTED_FLAGS)
    number = signal.Signals[name]
    for command in commands:

        @functools.wraps(command)
        def work(**given: object) -> None:
            signal.raise_signal(number)

        signal.signal(number, signal.SIG_DFL)
        with pytest.raises(typer.Exit) as stop:
            explain_interruption(work)()
        assert stop.value.exit_code == code
        assert capsys.readouterr().err.startswith(f"\nautoseg: stopped by {name}")


@pytest.mark.usefixtures("_ctrl_c_restored")
def test_a_message_about_what_was_kept_keeps_the_signal(capsys: pytest.CaptureFixture[str]) -> None:
    @functools.wraps(train)
    def work(**given: object) -> None:
        msg = "saved in epoch 3"
        raise Stopped(msg) from StopSignal(signal.SIGTERM)

    with pytest.raises(typer.Exit) as stop:
        explain_interruption(work)()
    assert stop.value.exit_code == 143
    assert capsys.readouterr().err == "\nautoseg: stopped by SIGTERM: saved in epoch 3\n"


@pytest.mark.usefixtures("_ctrl_c_restored")
@pytest.mark.parametrize(("command", "flag"), [(predict, "overwrite"), (plan, "overwrite"), (train, "restart")])
def test_a_flag_that_discards_is_named_only_where_it_was_given(
    capsys: pytest.CaptureFixture[str], command: Callable[..., None], flag: str
) -> None:
    interrupt(command, KeyboardInterrupt(), **{flag: False})
    assert "--" not in capsys.readouterr().err
    interrupt(command, KeyboardInterrupt(), **{flag: True})
    assert f"repeat the command without --{flag} to keep what is finished" in capsys.readouterr().err


@pytest.mark.usefixtures("_ctrl_c_restored")
@pytest.mark.parametrize(
    ("command", "text"), [(check, "repeat the command"), (status, "stopped\n"), (demo, "with --overwrite")]
)
def test_a_command_that_cannot_continue_does_not_promise_it(
    capsys: pytest.CaptureFixture[str], command: Callable[..., None], text: str
) -> None:
    interrupt(command, KeyboardInterrupt())
    message = capsys.readouterr().err
    assert text in message
    assert "continue" not in message


def test_unknown_flags_are_usage_errors() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autoseg", "train", "run", "--epoch", "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--epoch" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_run_is_reported_without_a_traceback(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autoseg", "train", f"{tmp_path}/nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no run folder" in done.stderr
    assert "autoseg plan" in done.stderr
    assert "Traceback" not in done.stderr
