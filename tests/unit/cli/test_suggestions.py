"""Errors that may come from the machine point to `autoseg doctor`."""

import errno
import sys
from pathlib import Path

import pytest

from autoseg.cli import app
from autoseg.errors import (
    AutosegError,
    CasesFailedError,
    DeviceError,
    LockError,
    PlanError,
    Problem,
    RunError,
    TrainingError,
    VolumeError,
    WorkerError,
)
from autoseg.training.data.batches import translate_worker_crashes

DEAD_WORKER = "DataLoader worker (pid 17) is killed by signal: Bus error. It is possible that dataloader's workers are"


def raise_worker_crash() -> None:
    with translate_worker_crashes():
        raise RuntimeError(DEAD_WORKER)


@pytest.mark.parametrize(
    "error",
    [
        DeviceError("no device cuda:3: PyTorch finds 1 CUDA device"),
        WorkerError("worker processes cannot be started"),
        RunError("cannot write run/plan.json: No space left on device; free space or choose another place"),
        RunError("cannot write run/plan.json: Disk quota exceeded; free space"),
        RunError("cannot lock run/.fold_0.lock: No locks available; put the run on a file system that has locks"),
        LockError("cannot lock run/.fold_0.lock: Function not implemented"),
        CasesFailedError("1 case failed", [Problem(text="too little memory (1 GiB); close other programs")]),
        TrainingError("fold 0: the process was killed (SIGKILL), often for lack of RAM"),
    ],
)
def test_an_error_that_may_come_from_the_machine_points_to_its_examination(error: AutosegError) -> None:
    assert "`autoseg doctor RUN` checks this machine" in app.suggest_examination(error)


def raise_caused_by(number: int) -> None:
    try:
        raise OSError(number, "")
    except OSError as error:
        msg = "cannot read a.nii.gz"
        raise VolumeError(msg) from error


@pytest.mark.parametrize(("number", "is_of_machine"), [(errno.EIO, True), (errno.EMFILE, True), (errno.ENOENT, False)])
def test_the_error_of_the_system_that_caused_an_error_decides(number: int, *, is_of_machine: bool) -> None:
    with pytest.raises(VolumeError) as raised:
        raise_caused_by(number)
    assert bool(app.suggest_examination(raised.value)) == is_of_machine


def test_a_dead_worker_process_points_to_the_examination() -> None:
    with pytest.raises(TrainingError) as raised:
        raise_worker_crash()
    assert "autoseg doctor" in app.suggest_examination(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        PlanError("the planner 'timed' does not plan by time; leave out --budget"),
        RunError("no run folder run; make one with autoseg plan"),
        TrainingError("fold 7: expected 0 to 4"),
        VolumeError("a.nii.gz: its spacing would make it larger than the memory of this computer"),
        RunError("/data/working memory/RAM/cuda is a file, expected a folder; choose another place"),
        RunError("cannot lock /data/x"),
    ],
)
def test_an_error_of_data_or_options_does_not(error: AutosegError) -> None:
    assert app.suggest_examination(error) == ""


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["autoseg", *arguments])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer replaces it
    app.main()


def test_an_unexpected_error_keeps_its_traceback_and_points_to_the_examination(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(app, "app", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_main(monkeypatch, "status", str(tmp_path))
    assert capsys.readouterr().err == (
        "autoseg: an unexpected error; `autoseg doctor RUN` checks this machine, which may be the cause\n"
    )


def test_the_suggestion_stands_below_the_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**options: object) -> None:
        raise DeviceError("no device cuda:3")  # noqa: EM101

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit) as stop:
        run_main(monkeypatch)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "autoseg: error: no device cuda:3\n(`autoseg doctor RUN` checks this machine)\n"
