"""Many trainings with one command: the queue, its failures and its interruption, through the command line."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from builders.command_line import run_autoseg
from builders.plans import shorten

pytestmark = pytest.mark.slow
ON_CPU = ("--device", "cpu", "--workers", 0)  # without processes that make batches, which load the libraries anew


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """Planned, with two folds and short schedules; nothing is trained."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("models", "logs", "crossvalidation.*"))
    halves = (["case0", "case1", "case2"], ["case3", "case4", "case5"])
    folds = [{"training": halves[1 - index], "validation": halves[index]} for index in (0, 1)]
    (run / "splits.json").write_text(json.dumps({"schema_version": 1, "folds": folds}))
    for configuration in ("2d", "3d_fullres"):
        shorten(run, configuration, epochs=1, iterations=2)
    return run


def read_status(run: Path) -> dict[tuple[str, str], dict[str, object]]:
    done = run_autoseg("status", run, "--json")
    assert done.code == 0, done.err
    return {(entry["configuration"], entry["fold"]): entry for entry in json.loads(done.out)}


def test_one_command_trains_everything_outlives_a_failure_and_ends_with_the_cross_validation(run: Path) -> None:
    assert {entry["state"] for entry in read_status(run).values()} == {"waiting"}
    obstacle = run / "models" / "2d" / "fold_0"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    done = run_autoseg("train", run, *ON_CPU)
    assert done.code == 1
    assert "2d, fold 0: failed: cannot create the folder" in done.out
    assert "Cross-validation of 3d_fullres: 6 cases, 2 folds" in done.out
    assert "Cross-validation of 2d" not in done.out
    states = {key: entry["state"] for key, entry in read_status(run).items()}
    finished = {("2d", "1"), ("3d_fullres", "0"), ("3d_fullres", "1")}
    assert {key for key, state in states.items() if state == "finished"} == finished
    obstacle.unlink()
    final = run / "models" / "3d_fullres" / "fold_0" / "checkpoint_final.safetensors"
    before = final.stat().st_mtime_ns
    again = run_autoseg("train", run, *ON_CPU)
    assert again.code == 0, again.out + again.err
    assert "1 of 4 folds to train" in again.out
    assert final.stat().st_mtime_ns == before
    assert {entry["state"] for entry in read_status(run).values()} == {"finished"}
    result = json.loads((run / "crossvalidation.json").read_text())
    assert set(result["configurations"]) == {"2d", "3d_fullres"}
    rows = list(csv.DictReader((run / "crossvalidation.csv").read_text().splitlines()))
    assert {row["class"] for row in rows} == {"bright", "dark", "foreground"}
    assert "finished" in run_autoseg("status", run).out


def listen_to_ctrl_c() -> None:
    """A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_reaches_every_process_which_saves_and_the_same_command_continues(
    run: Path, number: signal.Signals
) -> None:
    shorten(run, "2d", epochs=100_000, iterations=1)
    command = [sys.executable, "-m", "autoseg", "train", run, "--configuration", "2d", "--device", "cpu"]
    queue = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_ctrl_c,
    )
    log = run / "models" / "2d" / "fold_0" / "training_log.jsonl"
    deadline = time.monotonic() + 200
    while not (log.is_file() and log.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.2)
    running = read_status(run)["2d", "0"]
    assert running["state"] == "training"
    assert running["device"] == "cpu"
    assert running["end_epoch"] == 100_000
    children = psutil.Process(queue.pid).children(recursive=True)
    assert running["pid"] in {child.pid for child in children}
    queue.send_signal(number)
    _, err = queue.communicate(timeout=150)
    assert queue.returncode == 128 + number
    assert "stopping as soon as this is saved: 2d, fold 0" in err
    assert re.search(r"2d, fold 0: saved (in|after) epoch \d+ of 100000.*; the same command continues", err), err
    assert (run / "models" / "2d" / "fold_0" / "checkpoint_latest.safetensors").is_file()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    assert read_status(run)["2d", "0"]["state"] == "interrupted"


def read_losses(run: Path) -> list[float]:
    log = run / "models" / "3d_fullres" / "fold_0" / "training_log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [record[name] for record in records for name in ("train_loss", "validation_loss")]


def test_two_devices_together_train_what_one_trains(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    options = ("--configuration", "3d_fullres", "--fold", "0", "--precision", "float32", "--epochs", 2, "--workers", 0)
    together = run_autoseg("train", run, *options, "--devices", "cpu,cpu", "--parallel")
    assert together.code == 0, together.out + together.err
    alone = run_autoseg("train", other, *options, "--device", "cpu")
    assert alone.code == 0, alone.err
    assert len(read_losses(run)) == 4
    assert read_losses(run) == pytest.approx(read_losses(other), abs=1e-4)
    assert (run / "models" / "3d_fullres" / "fold_0" / "validation" / "summary.json").is_file()


def test_what_cannot_be_logged_to_is_refused_before_anything_begins(run: Path) -> None:
    done = run_autoseg("train", run, "--log-to", "papyrus")
    assert done.code == 1
    assert "mlflow or wandb, found 'papyrus'" in done.err
    assert not (run / "models").exists()
