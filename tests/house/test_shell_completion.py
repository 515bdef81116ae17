"""The shell completes commands, flags, values and paths, at the cost of a key press."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from autoseg.cli.terminal import completion
from autoseg.dataset.layouts import LAYOUTS
from autoseg.places import PLACES
from autoseg.plan import PREFERRED_CONFIGURATIONS
from planners import ARCHITECTURES, HEADS, PARTS, PLANNERS
from planners.losses import LOSS_RULES

ROOT = Path(__file__).resolve().parents[2]

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autoseg", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def complete(*words: str) -> list[str]:
    """What the program answers to bash for the last of these words."""
    line = shlex.join(words[:-1]) + f" {words[-1]}"
    done = run(_AUTOSEG_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def abdomen(tmp_path: Path) -> Path:
    """A run of which only the names of configurations and folds are there."""
    folder = tmp_path / "my runs" / "abdomen.autoseg"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"configurations": {"2d": {}, "3d_fullres": {}, "2d_wide": {}}}))
    (folder / "splits.json").write_text(json.dumps({"folds": [{}, {}, {}]}))
    return folder


def test_commands_and_flags_are_completed() -> None:
    assert complete("autoseg", "pl") == ["plan", "planners"]
    assert complete("autoseg", "predict", "--no-") == ["--no-mirroring", "--no-postprocessing"]


def test_a_call_that_will_be_refused_is_completed() -> None:
    repeated = ("--configuration", "2d", "--configuration", "3d_fullres")
    assert complete("autoseg", "train", "abdomen", *repeated, "--prec") == ["--precision"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("plan", "data", "--planner", ""), list(PLANNERS)),
        (("plan", "data", "--planner", "residual-"), ["residual-m", "residual-l", "residual-xl"]),
        (("plan", "data", "--loss", "foc"), ["focal", "focal_tversky"]),
        (("plan", "data", "--loss", "dice+foc"), ["dice+focal", "dice+focal_tversky"]),
        (("convert", "data", "out", "--layout", "i"), ["isles2018", "isic2018", "isbi2012"]),
        (("plan", "data", "--configuration", "3d_"), ["3d_fullres", "3d_lowres", "3d_cascade_fullres", "3d_roi"]),
        (("train", "nowhere", "--fold", ""), ["0", "1", "2", "3", "4", "all"]),
        (("train", "nowhere", "--precision", "b"), ["bfloat16"]),
        (("predict", "a", "b", "c", "--precision", "float"), ["float32", "float16"]),
        (("predict", "a", "b", "c", "--device", "c"), ["cpu", "cuda"]),
        (("predict", "a", "b", "c", "--decoding", ""), ["argmax", "dice"]),
        (("select", "a", "--device", "m"), ["mps"]),
        (("train", "a", "--device", "a"), ["auto"]),
        (("train", "a", "--on", "s"), ["slurm"]),
        (("export", "a", "--format", ""), ["autoseg", "nnunet"]),
        (("export", "a", "--fold", "a"), ["all"]),
        (("import", "a", "b", "--checkpoint", "b"), ["best"]),
        (("import", "a", "b", "--fold", "1"), ["1"]),
        (("import", "a", "b", "--configuration", "2"), ["2d", "2.5d", "2d_triplanar"]),
    ],
)
def test_values_of_options_are_completed(words: tuple[str, ...], expected: list[str]) -> None:
    assert complete("autoseg", *words) == expected


@pytest.mark.parametrize("command", ["train", "select", "preprocess", "export"])
def test_configurations_are_those_of_the_run_that_is_named(abdomen: Path, command: str) -> None:
    assert complete("autoseg", command, str(abdomen), "--configuration", "2") == ["2d", "2d_wide"]


@pytest.mark.parametrize("command", ["train", "select", "export"])
def test_folds_are_those_of_the_run_that_is_named(abdomen: Path, command: str) -> None:
    assert complete("autoseg", command, str(abdomen), "--fold", "") == ["0", "1", "2", "all"]


@pytest.mark.parametrize("content", ["{", "[]", '{"configurations": 3}', '{"folds": 3}'])
def test_a_damaged_run_is_no_error_while_typing(abdomen: Path, content: str) -> None:
    for name in ("plan.json", "splits.json"):
        (abdomen / name).write_text(content)
    assert complete("autoseg", "train", str(abdomen), "--configuration", "2") == ["2d", "2.5d", "2d_triplanar"]
    assert complete("autoseg", "train", str(abdomen), "--fold", "4") == ["4"]


def test_zsh_and_fish_are_answered_in_their_own_words() -> None:
    zsh = run(_AUTOSEG_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="autoseg train run --fold ").stdout
    assert re.findall(r'"(\w+)"', zsh) == ["0", "1", "2", "3", "4", "all"]
    assert run(_AUTOSEG_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="autoseg train ru").stdout.strip() == "_files"
    line = "autoseg plan data --planner residual-"
    fish = run(_AUTOSEG_COMPLETE="complete_fish", _TYPER_COMPLETE_FISH_ACTION="get-args", _TYPER_COMPLETE_ARGS=line)
    assert fish.stdout.split() == ["residual-m", "residual-l", "residual-xl"]


def test_the_names_offered_are_those_that_exist() -> None:
    from autoseg.runtime.precision import Precision

    assert list(completion.PLANNERS) == list(PLANNERS)
    assert list(completion.ARCHITECTURES) == list(ARCHITECTURES)
    assert list(completion.HEADS) == list(HEADS)
    assert {name: tuple(values) for name, values in PARTS.items()} == completion.PARTS
    assert completion.complete_part("skip=a") == ["skip=addition", "skip=attention_gate"]
    assert list(completion.LOSSES) == list(LOSS_RULES)
    assert list(completion.LAYOUTS) == list(LAYOUTS)
    assert {*completion.PLACES, *completion.CASE_PLACES} == set(PLACES)
    assert sorted(completion.CONFIGURATIONS) == sorted(PREFERRED_CONFIGURATIONS)
    assert get_args(Precision) == completion.PRECISIONS


def test_completing_imports_nothing_heavy(abdomen: Path) -> None:
    code = (
        "import sys\n"
        "from autoseg.cli.app import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert stop.code in (0, None), stop.code\n"
        "heavy = {'torch', 'numpy', 'rich', 'SimpleITK', 'nibabel', 'planners'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    line = f"autoseg train {shlex.quote(str(abdomen))} --configuration 3"
    asked = {"_AUTOSEG_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "4"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | asked
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3d_fullres"]


def test_the_help_says_how_to_switch_it_on() -> None:
    shown = run("--help").stdout
    assert "--install-completion" in shown
    assert "--show-completion" in shown


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., str]:
    """Runs lines in a bash that finds a program `autoseg`, in a home of its own."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "autoseg"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m autoseg "$@"\n')
    program.chmod(0o755)
    home = {"HOME": str(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def call(*lines: str) -> str:
        done = subprocess.run(
            ["bash", "--norc", "-c", "\n".join(lines)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | home,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


PRESS_TAB = 'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _autoseg_completion autoseg; printf "%s\\n" "${COMPREPLY[@]}"'


@needs_bash
def test_the_script_that_is_shown_completes_in_bash(shell: Callable[..., str], abdomen: Path) -> None:
    switched_on = 'eval "$(autoseg --show-completion)"'
    assert "-F _autoseg_completion" in shell(switched_on, "complete -p autoseg")
    assert shell(switched_on, "COMP_WORDS=(autoseg st)", PRESS_TAB).split() == ["status"]
    words = f"COMP_WORDS=(autoseg train '{abdomen.relative_to(abdomen.parents[1])}' --fold '')"
    assert shell(switched_on, words.replace("my runs", "my\\ runs"), PRESS_TAB).split() == ["0", "1", "2", "all"]


@needs_bash
def test_paths_are_left_to_the_shell(shell: Callable[..., str]) -> None:
    switched_on = 'eval "$(autoseg --show-completion)"'
    assert "-o default" in shell(switched_on, "complete -p autoseg")
    assert shell(switched_on, "COMP_WORDS=(autoseg predict my)", PRESS_TAB).strip() == ""
    assert shell(switched_on, "COMP_WORDS=(autoseg plan data --run my)", PRESS_TAB).strip() == ""


@needs_bash
def test_it_is_installed_for_the_next_shell(shell: Callable[..., str]) -> None:
    assert "bash completion installed" in shell("autoseg --install-completion\ntrue")
    assert shell(". ~/.bashrc", "COMP_WORDS=(autoseg ev)", PRESS_TAB).split() == ["evaluate"]
