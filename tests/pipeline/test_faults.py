"""The short form of `make faults`: preprocessing is killed a few times."""

import random
from pathlib import Path

import pytest
from builders.balls import write_balls
from builders.hosts import HOST
from faults.comparison import find_differences, find_leftovers, find_orphans
from faults.harness import Stage, run_stage

from autoseg.fingerprint import Machine
from autoseg.processes.progress import SilentProgress
from autoseg.workflows.plan.planning import PlanRequest, build_plan_rule, plan_dataset
from planners import PLANNERS


def plan(folder: Path) -> None:
    """In this process and without measuring the CPU, which takes longer than all the kills."""
    request = PlanRequest(planner="default", machine=Machine(accelerator_memory_gb=4), preprocess=False, workers=1)
    rule = build_plan_rule(PLANNERS["default"], measure=lambda: HOST)
    plan_dataset(
        folder / "dataset", folder / "run", rule, request=request, report=lambda _: None, progress=SilentProgress()
    )


@pytest.mark.slow
def test_a_killed_command_gives_the_same_when_it_is_repeated_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    write_balls(folder / "dataset", cases=2)
    told: list[str] = []
    stage = Stage(name="preprocess", arguments=("preprocess", "run", "--workers", "1"), kills=3, prepare=plan)
    result = run_stage(stage, folder, generator=random.Random(0), report=told.append)
    assert result.problems == []
    assert len(result.moments) == len(told) == 3
    assert list(folder.glob("run/preprocessed/3d_fullres/*.b2nd"))


def test_a_difference_a_leftover_and_an_orphan_are_found(tmp_path: Path) -> None:
    for name in ("expected", "found"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.json").write_text(
            f'{{"seconds": {len(name)}, "weights_sha256": "{name}", "x": 1}}'  # of files that hold times
        )
    (tmp_path / "expected" / "a").touch()
    (tmp_path / "found" / "b").touch()
    for name in ("expected", "found"):
        (tmp_path / name / "other.json").write_text(f'{{"x": {len(name)}}}')
    (tmp_path / "found" / f".c-autoseg-{'0' * 32}.txt").touch()
    assert find_differences(tmp_path / "expected", tmp_path / "found") == [
        "a is missing",
        f".c-autoseg-{'0' * 32}.txt is superfluous",
        "b is superfluous",
        "other.json differs",
    ]
    (tmp_path / "tmp" / "pymp-x").mkdir(parents=True)
    assert len(find_leftovers(tmp_path / "found", tmp_path / "tmp")) == 2
    assert find_orphans("no process has this mark") == []
