"""The command line's surface is frozen, loads lazily, and reports errors without tracebacks."""

import subprocess
import sys

import pytest
import typer
import typer.main

from autoseg.cli.app import app, say_how_to_continue

EXPECTED_FLAGS = {
    "check": {"--group-by", "--splits", "--fix-geometry", "--workers", "--all", "--json"},
    "plan": {
        "--run", "--planner", "--memory-gb", "--budget", "--configuration", "--group-by", "--splits", "--fix-geometry",
        "--no-preprocess", "--workers", "--overwrite",
    },
    "preprocess": {"--configuration", "--workers"},
    "train": {
        "--configuration", "--fold", "--epochs", "--extend", "--budget", "--until-plateau", "--precision", "--device",
        "--devices", "--parallel", "--workers", "--deterministic", "--log-to", "--seed", "--restart",
    },
    "status": {"--watch", "--json"},
    "select": {"--configuration", "--fold", "--no-ensembles", "--device"},
    "predict": {
        "--configuration", "--fold", "--no-mirroring", "--step-fraction", "--no-postprocessing",
        "--save-probabilities", "--device", "--precision", "--execution", "--overwrite",
    },
    "evaluate": {"--run"},
    "import": {"--configuration", "--fold", "--checkpoint", "--any-trainer", "--overwrite"},
    "export": {"--format", "--output", "--configuration", "--fold", "--overwrite"},
    "demo": {"--overwrite"},
    "planners": set(),
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


def test_an_interrupted_command_says_how_to_continue(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as stop:
        say_how_to_continue(work)()
    assert stop.value.exit_code == 130
    assert "repeat the command" in capsys.readouterr().err


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
