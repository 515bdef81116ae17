"""The program that measures a GPU runs, with tiny networks on the CPU."""

import json
import sys
from pathlib import Path

import pytest
import torch
from builders.threads import use_one_thread

sys.path.append(str(Path(__file__).parents[2]))

from autoseg.training.execution import TrainingExecution
from benchmarks import gpu
from benchmarks.gpu_prediction import PredictionTime

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def run(*parts, peer="nowhere", more=()):
    gpu.main(["--tiny", "--device", "cpu", "--peer", str(peer), *more, "--only", *parts])


def test_parts_without_a_data_set_print_their_rows(capsys):
    run("step-2d", "floor", "prediction")
    printed = capsys.readouterr().out
    for row in (
        "| step 2d | channels ",
        "| convolutions 128 | best of each |",
        "| first convolution | padded to 8 channels |",
    ):
        assert row in printed
    assert printed.count("in the network |") == 4
    assert printed.count("nowhere holds no nnU-Net: it is not compared") == 3
    assert "is not measured" not in printed


def test_nnu_net_does_the_same_beside_it_where_it_is_installed(capsys, monkeypatch, tmp_path):
    tasks = []

    def answer(arguments, interpreter):
        assert interpreter == str(tmp_path / "bin" / "python")
        tasks.append(json.loads(Path(arguments[1]).read_text()))
        return "a warning\n0.5\n"

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nnUNetv2_train").touch()
    monkeypatch.setattr(gpu, "run_python", answer)
    monkeypatch.setattr(
        gpu, "choose_execution", lambda *_, **options: TrainingExecution(memory_format=torch.channels_last)
    )
    monkeypatch.setattr(gpu, "_time", lambda settings, work: 1.0)
    monkeypatch.setattr(gpu, "time_prediction", lambda *_, **options: PredictionTime(seconds=1.0, network_seconds=0.9))
    run("step-resenc", "prediction", peer=tmp_path)
    printed = capsys.readouterr().out
    assert "| step resenc | nnU-Net, not compiled | 500.00 ms | 2.0 it/s" in printed
    assert printed.count("nnU-Net, windows alone") == 2
    assert [(task["kind"], task["mirror_axes"]) for task in tasks] == [
        ("step", []),
        ("prediction", []),
        ("prediction", [0, 1, 2]),
    ]
    assert (tasks[0]["is_residual"], tasks[0]["encoder"], tasks[0]["decoder"]) == (True, [1, 3], [1])


def test_no_part_is_begun_after_the_time(capsys):
    run("floor", "kernels", more=("--minutes", "0"))
    printed = capsys.readouterr().out
    assert "floor is not begun after 0 minutes: run it with --only floor" in printed
    assert "| " not in printed.partition("|---|")[2]


def test_parts_that_run_commands_say_what_is_missing_and_do_not_stop_the_next(capsys, monkeypatch):
    commands = []

    def answer(arguments):
        commands.append(arguments)
        if "plan" in arguments and "timed" not in arguments:
            msg = "no space left"
            raise RuntimeError(msg)
        return "what was printed"

    monkeypatch.setattr(gpu, "run_python", answer)
    monkeypatch.setattr(gpu, "write_synthetic_dataset", lambda folder, **counts: None)
    run("batches", "waiting", "dice")
    printed = capsys.readouterr().out
    assert "a synthetic dataset takes its place" in printed
    assert "batches is not measured: RuntimeError: no space left" in printed
    assert "nowhere holds no nnU-Net: it is not compared" in printed
    assert printed.count("what was printed") == 2
    modules = [command[1] for command in commands]
    assert modules == ["autoseg", "benchmarks.training_step", "autoseg", "autoseg"]


def test_every_part_has_a_row_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    names = {"step-..." if name.startswith("step-") else name for name in gpu.PARTS}
    assert all(f"| `{name}` |" in page for name in names)
