"""Trainings that end in the middle, whatever ended them, and go on with the same command."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

import psutil
import pytest
from builders.command_line import StartedCommand, run_autoseg, start_autoseg
from builders.folds import read_arrays
from builders.plans import shorten

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # several trainings, each with the start of its processes
EPOCHS = 110
LARGEST_FILE_BYTES = 40_000  # less than a checkpoint


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """Planned, with a schedule of many short epochs; nothing is trained."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("models", "logs", "crossvalidation.*"))
    shorten(run, "2d", epochs=EPOCHS, iterations=1)
    return run


def list_command(run: Path) -> list[str]:
    options = ["--configuration", "2d", "--fold", "0", "--device", "cpu", "--workers", "0", "--precision", "float32"]
    return ["train", str(run), *options]


def kill_when_there_is(path: Path, process: StartedCommand) -> None:
    deadline = time.monotonic() + 200
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.finish().code == -signal.SIGKILL


def test_a_killed_training_goes_on_and_ends_as_if_nothing_had_happened(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    folder = run / "models" / "2d" / "fold_0"
    kill_when_there_is(folder / "checkpoint_latest.safetensors", start_autoseg(*list_command(run)))
    assert "interrupted" in run_autoseg("status", run).out
    leftover = folder / ".checkpoint_latest-0123456789abcdef.safetensors"
    leftover.write_text("a part")
    continued = run_autoseg(*list_command(run))
    assert continued.code == 0, continued.err
    assert "epoch 1/" not in continued.out
    assert f"epoch {EPOCHS}/{EPOCHS}" in continued.out
    assert not leftover.exists()
    whole = run_autoseg(*list_command(other))
    assert whole.code == 0, whole.err
    found, expected = (
        read_arrays(place / "models" / "2d" / "fold_0" / "checkpoint_final.safetensors") for place in (run, other)
    )
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


def send(process: StartedCommand, kind: str) -> None:
    """As `kill` does, as a terminal does on Ctrl-C (twice, by an impatient hand), as a cluster's scheduler does."""
    if kind == "kill":
        os.kill(process.pid, signal.SIGTERM)
    elif kind == "scheduler":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)


SHORT = {"epochs": 2, "iterations": 40}


@pytest.fixture(scope="module")
def uninterrupted(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The final checkpoint of a short training in one go."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("models", "logs", "crossvalidation.*"))
    shorten(run, "2d", **SHORT)
    done = run_autoseg(*list_command(run))
    assert done.code == 0, done.err
    return run / "models" / "2d" / "fold_0" / "checkpoint_final.safetensors"


@pytest.mark.parametrize("kind", ["kill", "terminal", "scheduler"])
def test_a_training_that_is_asked_to_end_saves_its_state_and_ends_as_if_nothing_had_happened(
    run: Path, uninterrupted: Path, kind: str
) -> None:
    shorten(run, "2d", **SHORT)
    log, latest = (
        run / "models" / "2d" / "fold_0" / name for name in ("training_log.jsonl", "checkpoint_latest.safetensors")
    )
    process = start_autoseg(*list_command(run), "--workers", 1)
    deadline = time.monotonic() + 200
    while not (log.is_file() and log.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    latest.unlink(missing_ok=True)  # what is written from now on is written because of the signal
    send(process, kind)
    code, _, err = astuple(process.finish())
    assert code == (130 if kind == "terminal" else 143), err
    assert "Traceback" not in err
    where = re.search(r"saved in (epoch \d of 2, after iteration \d+ of 40); the same command continues", err)
    assert where is not None, err
    continued = run_autoseg(*list_command(run))
    assert continued.code == 0, continued.err
    assert f"2d, fold 0: continues, in {where[1]}" in continued.out
    found = read_arrays(run / "models" / "2d" / "fold_0" / "checkpoint_final.safetensors")
    expected = read_arrays(uninterrupted)
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


def find_worker() -> psutil.Process | None:
    """The process that makes batches: a child of the server that forks such processes."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            parent = process.parent()
            if parent is not None and "multiprocessing.forkserver" in " ".join(parent.cmdline()):
                return process
    return None


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_a_training_goes_on_without_shared_memory_and_ends_with_advice_when_its_worker_is_killed(
    run: Path, uninterrupted: Path
) -> None:
    shorten(run, "2d", **SHORT)
    log = run / "models" / "2d" / "fold_0" / "training_log.jsonl"
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run_autoseg, *list_command(run), "--workers", "1")
        deadline = time.monotonic() + 200
        while (worker := find_worker()) is None and not training.done() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert worker is not None
        worker.rlimit(psutil.RLIMIT_FSIZE, (0, 0))  # /dev/shm takes nothing from it any more, as if others filled it
        while not (log.is_file() and log.read_text()) and not training.done() and time.monotonic() < deadline:
            time.sleep(0.02)
        worker.kill()  # as the kernel does where memory is short
        done = training.result(timeout=200)
    assert (done.code, "Traceback" in done.err) == (1, False), done.err
    assert done.out.count("warning: shared memory (/dev/shm) is full") == 1
    assert "epoch 1/2" in done.out
    message = " ".join(done.err.split())
    assert re.search(
        r"error: a process that prepares patches has died .*lack of RAM.*same command to continue", message
    )
    assert find_worker() is None
    picture = log.with_name("progress.png")
    picture.unlink(missing_ok=True)
    picture.mkdir()
    continued = run_autoseg(*list_command(run))
    assert continued.code == 0, continued.err
    assert f"warning: cannot write {picture}: Is a directory" in continued.out
    assert "the same command, given again, draws the picture" in continued.out
    found = read_arrays(run / "models" / "2d" / "fold_0" / "checkpoint_final.safetensors")
    expected = read_arrays(uninterrupted)
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


def test_a_training_whose_terminal_is_closed_saves_its_state(run: Path) -> None:
    shorten(run, "2d", epochs=100_000, iterations=60)
    folder = run / "models" / "2d" / "fold_0"
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, sys.executable, "-m", "autoseg", *list_command(run)],
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    reader = threading.Thread(target=read_all, args=(terminal, log := folder / "training_log.jsonl"))
    reader.start()
    reader.join(timeout=200)  # until there is an epoch
    os.close(terminal)
    try:
        process.wait(timeout=100)
    finally:
        process.kill()
    assert log.is_file()
    assert (folder / "checkpoint_latest.safetensors").is_file()


ON_A_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def read_all(terminal: int, log: Path) -> None:
    """Takes what is shown, as a terminal does, until an epoch is in the log."""
    while not (log.is_file() and log.read_text()):
        os.read(terminal, 1 << 16)


PROGRAM = """
import sys
import autoseg
from autoseg.workflows.train.request import TrainingRequest
request = TrainingRequest(configuration="2d", folds=("0",), device="cpu", workers=0, precision="float32")
try:
    autoseg.train_run(sys.argv[1], request)
except KeyboardInterrupt as stopped:
    print(stopped)
"""


def test_a_program_that_trains_and_is_interrupted_has_its_state_saved(run: Path) -> None:
    shorten(run, "2d", epochs=100_000, iterations=60)
    folder = run / "models" / "2d" / "fold_0"
    log = folder / "training_log.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(run)], stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    ) as process:
        try:
            deadline = time.monotonic() + 200
            while not (log.is_file() and log.read_text()) and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=100)
        finally:
            process.kill()
    assert re.search(r"^2d, fold 0: saved .* epoch \d+ of 100000.*; the same command continues$", out)
    assert (folder / "checkpoint_latest.safetensors").is_file()


def heed_ctrl_c() -> None:
    """A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_training_that_is_asked_to_end_leaves_no_process_behind(run: Path) -> None:
    shorten(run, "2d", epochs=100_000, iterations=1)
    log = run / "models" / "2d" / "fold_0" / "training_log.jsonl"
    process = start_autoseg(*list_command(run), "--workers", 1)
    deadline = time.monotonic() + 200
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    helpers = psutil.Process(process.pid).children(recursive=True)
    assert helpers
    os.kill(process.pid, signal.SIGTERM)
    done = process.finish()
    assert done.code == 143
    assert "Traceback" not in done.err
    _, alive = psutil.wait_procs(helpers, timeout=30)
    assert not alive


def test_a_damaged_checkpoint_is_named_with_what_to_do(run: Path) -> None:
    latest = run / "models" / "2d" / "fold_0" / "checkpoint_latest.safetensors"
    kill_when_there_is(latest, start_autoseg(*list_command(run)))
    latest.write_bytes(latest.read_bytes()[:1000])
    refused = run_autoseg(*list_command(run))
    assert (refused.code, "Traceback" in refused.err) == (1, False)
    message = " ".join(refused.err.split())
    assert "checkpoint_latest.safetensors is damaged" in message
    assert "remove checkpoint_latest.safetensors or begin again with --restart" in message
    status = run_autoseg("status", run).out
    assert "failed" in status
    assert "is damaged" in " ".join(status.split())


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_a_disk_without_room_ends_the_training_with_a_message_and_what_was_saved_is_kept(run: Path) -> None:
    process = start_autoseg(*list_command(run))
    psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (LARGEST_FILE_BYTES, LARGEST_FILE_BYTES))
    done = process.finish()
    assert (done.code, "Traceback" in done.err) == (1, False)
    message = " ".join(done.err.split())
    assert "cannot write" in message
    assert "File too large" in message
    assert "free space or choose another place" in message
    folder = run / "models" / "2d" / "fold_0"
    assert not [path for path in folder.rglob(".*") if path.is_file()]
    shorten(run, "2d", epochs=2, iterations=1)
    continued = run_autoseg(*list_command(run))
    assert continued.code == 0, continued.err
