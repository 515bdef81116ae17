"""The short form of `make faults`: planning and preprocessing are killed a few times."""

import random
from pathlib import Path

import pytest
from builders.balls import write_balls
from faults.comparison import find_differences, find_leftovers, find_orphans
from faults.harness import Stage, run_stage

PLAN = ("plan", "dataset", "--run", "run", "--configuration", "3d_fullres", "--memory-gb", "4", "--workers", "1")


@pytest.mark.slow
def test_a_killed_command_gives_the_same_when_it_is_repeated_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    write_balls(folder / "dataset", cases=2)
    told: list[str] = []
    stage = Stage(name="plan", arguments=PLAN, kills=2)
    result = run_stage(stage, folder, generator=random.Random(0), report=told.append)
    assert result.problems == []
    assert len(result.moments) == len(told) == 2
    assert (folder / "run" / "plan.json").is_file()


def test_a_difference_a_leftover_and_an_orphan_are_found(tmp_path: Path) -> None:
    for name in ("expected", "found"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.json").write_text(f'{{"seconds": {len(name)}, "x": 1}}')
    (tmp_path / "expected" / "a").touch()
    (tmp_path / "found" / "b").touch()
    for name in ("expected", "found"):
        (tmp_path / name / "other.json").write_text(f'{{"x": {len(name)}}}')
    (tmp_path / "found" / f".c-{'0' * 32}.txt").touch()
    assert find_differences(tmp_path / "expected", tmp_path / "found") == [
        "a is missing",
        f".c-{'0' * 32}.txt is superfluous",
        "b is superfluous",
        "other.json differs",
    ]
    (tmp_path / "tmp" / "pymp-x").mkdir(parents=True)
    assert len(find_leftovers(tmp_path / "found", tmp_path / "tmp")) == 2
    assert find_orphans("no process has this mark") == []
