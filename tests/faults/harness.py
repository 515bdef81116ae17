"""Runs a command undisturbed, then kills it again and again and repeats it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from faults.comparison import find_differences, find_leftovers, find_orphans, make_temporary_place

POLLING_SECONDS: Final = 0.02
PATIENCE_SECONDS: Final = 600.0
ORPHAN_SECONDS: Final = 30.0
"""Within them a helper process has seen that its parent is gone; on a busy machine it must first be started up."""
EARLY_SHARE: Final = 0.2
"""Of the kills, those at any moment of the command; the others come after it has begun to write."""
ATTEMPTS: Final = 5
OWN_COMMAND: Final = (sys.executable, "-m", "autoseg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A command that changes a folder.

    Attributes:
        arguments: Arguments of `autoseg`; the command runs in the folder.
        prepare: Changes the folder before the command.
        kills: Number of kills.
    """

    name: str
    arguments: tuple[str, ...]
    kills: int
    prepare: Callable[[Path], None] = lambda folder: None


@dataclass(slots=True, kw_only=True)
class StageResult:
    """Kills of a stage, the seconds of all its commands, and what was wrong after them."""

    name: str
    moments: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    undisturbed_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Durations:
    whole: float
    writing: float


def run_stage(stage: Stage, folder: Path, *, generator: random.Random, report: Callable[[str], None]) -> StageResult:
    """Runs a stage undisturbed in `folder`, and before that with kills in copies of it."""
    started, result = time.monotonic(), StageResult(name=stage.name)
    stage.prepare(folder)
    before = folder.with_name(f"{folder.name}-before")
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(folder, before, symlinks=True)
    durations = _run_undisturbed(stage, folder)
    result.undisturbed_seconds = durations.whole
    for number in range(stage.kills):
        is_early = generator.random() < EARLY_SHARE
        share = generator.random()
        # Under one and the same path, which some records name.
        after = folder.with_name(f"{folder.name}-after")
        folder.rename(after)
        shutil.copytree(before, folder, symlinks=True)
        moment, problems = _kill_and_repeat(stage, folder, after, durations, is_early=is_early, share=share)
        shutil.rmtree(folder)
        after.rename(folder)
        result.moments.append(moment)
        result.problems += [f"{stage.name}, kill {number} after {moment:.2f} s: {problem}" for problem in problems]
        report(f"{stage.name}: kill {number + 1}/{stage.kills} after {moment:.2f} s: {'; '.join(problems) or 'equal'}")
    shutil.rmtree(before)
    result.seconds = time.monotonic() - started
    return result


def _run_undisturbed(stage: Stage, folder: Path) -> _Durations:
    temporary = make_temporary_place()
    process, begun = _start(stage.arguments, folder, temporary, mark=""), time.monotonic()
    _wait_for_writing(process, folder)
    writing = time.monotonic()
    _expect_success(process, stage)
    shutil.rmtree(temporary)
    ended = time.monotonic()
    return _Durations(whole=ended - begun, writing=ended - writing)


def _kill_and_repeat(
    stage: Stage, folder: Path, expected: Path, durations: _Durations, *, is_early: bool, share: float
) -> tuple[float, list[str]]:
    temporary, mark = make_temporary_place(), uuid.uuid4().hex
    for attempt in range(ATTEMPTS):
        begun = time.monotonic()
        process = _start(stage.arguments, folder, temporary, mark=mark)
        if not is_early:
            _wait_for_writing(process, folder)
        time.sleep(share * (durations.whole if is_early else durations.writing) / 2**attempt)
        moment, is_killed = time.monotonic() - begun, process.poll() is None
        with suppress(ProcessLookupError):  # it had ended, and all others of its group
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if is_killed:
            break
        # It had finished; a repetition has less to do, so the folder must be as before.
        shutil.rmtree(folder)
        shutil.copytree(expected.with_name(f"{folder.name}-before"), folder, symlinks=True)
    problems = [f"process {orphan.pid} survived" for orphan in _wait_for_orphans(mark)]
    repeated = _start(stage.arguments, folder, temporary, mark=mark)
    output = repeated.communicate(timeout=PATIENCE_SECONDS)[0]
    if repeated.returncode != 0:
        problems.append(f"the repetition ended with {repeated.returncode}: {output[-2000:]}")
    problems += find_differences(expected, folder) + find_leftovers(folder, temporary)
    problems += [f"process {orphan.pid} survived the repetition" for orphan in _wait_for_orphans(mark)]
    shutil.rmtree(temporary)
    return moment, problems


def _wait_for_orphans(mark: str) -> Sequence[object]:
    """Processes of the group have been told to end; the kernel takes a moment."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while (orphans := find_orphans(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return orphans


def _start(arguments: Sequence[str], folder: Path, temporary: Path, *, mark: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"TMPDIR": str(temporary), "AUTOSEG_FAULTS": mark, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*OWN_COMMAND, *arguments],
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for_writing(process: "subprocess.Popen[str]", folder: Path) -> None:
    before = _list_files(folder)
    while process.poll() is None and _list_files(folder) == before:
        time.sleep(POLLING_SECONDS)


def _list_files(folder: Path) -> set[str]:
    return {os.path.join(place, name) for place, folders, files in os.walk(folder) for name in (*folders, *files)}  # noqa: PTH118 (fast)


def _expect_success(process: "subprocess.Popen[str]", stage: Stage) -> None:
    output = process.communicate(timeout=PATIENCE_SECONDS)[0]
    if process.returncode != 0:
        msg = f"{stage.name} failed without any kill:\n{output}"
        raise RuntimeError(msg)
