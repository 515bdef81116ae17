"""A run that was planned and trained once for all tests of this folder."""

from pathlib import Path

import pytest
from builders.balls import write_balls
from builders.command_line import run_autoseg
from builders.plans import shorten


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("data") / "Dataset001_Balls", cases=6)


@pytest.fixture(scope="session")
def trained_run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planned, and fold 0 of 3d_fullres trained for 3 epochs of 20 iterations."""
    run = tmp_path_factory.mktemp("runs") / "balls.autoseg"
    planned = run_autoseg("plan", dataset, "--run", run, "--workers", 1)
    assert planned.code == 0, planned.err
    shorten(run, "3d_fullres", epochs=3, iterations=20)
    chosen = ("--configuration", "3d_fullres", "--fold", "0", "--device", "cpu", "--workers", 0)
    trained = run_autoseg("train", run, *chosen)
    assert trained.code == 0, trained.err
    return run
