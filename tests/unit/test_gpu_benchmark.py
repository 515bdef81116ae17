"""The program that measures a GPU runs, with tiny networks on the CPU."""

import argparse
import importlib
import json
import math
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from builders.threads import use_one_thread
from torch.autograd import DeviceType

sys.path.append(str(Path(__file__).parents[2]))

import autoseg.__main__
from autoseg.inference.execution.choice import count_patches
from autoseg.inference.options import ONE_IMAGE
from autoseg.run_folder import RunFolder
from autoseg.training import execution_choice
from autoseg.training.compiling_beside import CompilingBeside
from autoseg.training.execution import TrainingExecution
from benchmarks import gpu, training_step
from benchmarks.gpu_prediction import PredictionTime
from benchmarks.peer import Peer

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def run(*parts, peer="nowhere", more=()):
    gpu.main(["--tiny", "--device", "cpu", "--peer", str(peer), *more, "--only", *parts])


def test_parts_without_a_data_set_print_their_rows(capsys):
    run("step-2d", "floor", "prediction", "predict-volume")
    printed = capsys.readouterr().out
    for row in (
        "| step 2d | channels ",
        "| convolutions 128 | best of each |",
        "| first convolution | padded to 8 channels |",
        "| predict_volume of (24, 24, 24) | eager |",
    ):
        assert row in printed
    assert printed.count("in the network |") == 3
    assert printed.count("nowhere holds no nnU-Net: it is not compared") == 2
    assert "is not measured" not in printed


@pytest.fixture
def with_peer(monkeypatch, tmp_path):
    """nnU-Net is installed and answers what the test says; our own figures are a second each. Returns its tasks."""
    tasks = []
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nnUNetv2_train").touch()
    monkeypatch.setattr(
        gpu, "choose_execution", lambda *_, **options: TrainingExecution(memory_format=torch.channels_last)
    )
    monkeypatch.setattr(gpu, "_time", lambda settings, work: 1.0)
    monkeypatch.setattr(gpu, "time_prediction", lambda *_, **options: PredictionTime(seconds=1.0, network_seconds=0.9))

    def let(*outcomes, failure=None):
        def answer(arguments, interpreter, *, end):
            assert interpreter == str(tmp_path / "bin" / "python")
            tasks.append(json.loads(Path(arguments[1]).read_text()))
            if failure is not None:
                raise failure
            return f"a warning\n{json.dumps(outcomes[: len(tasks[-1])])}\n"

        monkeypatch.setattr(gpu, "run_python", answer)
        return tasks

    return let


def test_nnu_net_does_the_same_beside_it_where_it_is_installed(capsys, with_peer, tmp_path):
    tasks = with_peer(0.5, 0.25)
    run("step-resenc", "prediction", "step-2d", peer=tmp_path, more=("--work", str(tmp_path / "new" / "runs")))
    printed = capsys.readouterr().out
    assert "| step resenc | nnU-Net, not compiled | 500.00 ms | 2.0 it/s, 0.50 times as long" in printed
    assert "| step 2d | nnU-Net, not compiled | 250.00 ms | 4.0 it/s, 0.25 times as long" in printed
    assert "| nnU-Net, windows alone | no mirroring | 0.50 s |" in printed
    assert "| nnU-Net, windows alone | mirroring | 0.25 s |" in printed
    steps, predictions = tasks  # nnU-Net starts once for all steps that are asked for
    assert [(task["kind"], len(task["patch"])) for task in steps] == [("step", 3), ("step", 2)]
    assert [(task["kind"], task["mirror_axes"]) for task in predictions] == [
        ("prediction", []),
        ("prediction", [0, 1, 2]),
    ]
    assert (steps[0]["is_residual"], steps[0]["encoder"], steps[0]["decoder"]) == (True, [1, 3], [1])


def test_a_shape_that_nnu_net_fails_with_loses_no_other_figure_and_is_not_tried_again(capsys, with_peer, tmp_path):
    tasks = with_peer("OutOfMemoryError: full", 0.25)
    run("step-128", "step-2d", peer=tmp_path)
    printed = capsys.readouterr().out
    assert "nnU-Net's step with the patch (16, 16, 16) is not measured: OutOfMemoryError: full" in printed
    assert printed.count("| 1000.00 ms | 1.0 it/s |") == 2
    assert "| step 2d | nnU-Net, not compiled | 250.00 ms |" in printed
    assert len(tasks) == 1


def test_nnu_net_that_does_not_run_is_asked_once_and_loses_no_figure_of_ours(capsys, with_peer, tmp_path):
    tasks = with_peer(failure=RuntimeError("no module nnunetv2"))
    run("step-128", "step-2d", "prediction", peer=tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("nnU-Net is not measured: RuntimeError: no module nnunetv2") == 2
    assert printed.count("| 1000.00 ms | 1.0 it/s |") == 2
    assert printed.count("in the network |") == 3
    assert len(tasks) == 2  # steps, prediction


def test_nnu_net_tells_why_one_task_fails_and_does_the_others(monkeypatch, capsys, tmp_path):
    package = "nnunetv2.training.loss"
    names = {
        "dynamic_network_architectures.architectures.unet": ("PlainConvUNet", "ResidualEncoderUNet"),
        "nnunetv2.inference.predict_from_raw_data": ("nnUNetPredictor",),
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer": ("nnUNetTrainer",),
        f"{package}.compound_losses": ("DC_and_CE_loss",),
        f"{package}.deep_supervision": ("DeepSupervisionWrapper",),
        f"{package}.dice": ("MemoryEfficientSoftDiceLoss",),
    }
    for name, classes in names.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
        sys.modules[name].__dict__.update(dict.fromkeys(classes))
    peer = importlib.import_module("benchmarks.peer_gpu")
    monkeypatch.delitem(sys.modules, "benchmarks.peer_gpu")

    def time_task(task):
        if task["seconds"] is None:
            msg = "CUDA out of memory\nmore"
            raise torch.OutOfMemoryError(msg)
        return task["seconds"]

    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"seconds": seconds} for seconds in (1.0, None, 2.0)]))
    monkeypatch.setattr(peer, "time_task", time_task)
    monkeypatch.setattr(sys, "argv", ["peer_gpu.py", str(path)])
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # and back
    peer.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == [1.0, "OutOfMemoryError: CUDA out of memory", 2.0]


def test_mirrored_views_are_timed_in_the_fastest_way(capsys, monkeypatch):
    seconds = {"eager": 2.0, "auto": 1.0}
    timed = []

    def measure(plan, prepared, device, *, extent, axes):
        timed.append((prepared, axes))
        return PredictionTime(seconds=seconds[prepared.execution], network_seconds=0.9)

    prepare = SimpleNamespace
    monkeypatch.setattr(gpu, "prepare", lambda plan, setting, choice: prepare(execution=choice, inference_batch_size=3))
    monkeypatch.setattr(gpu, "time_prediction", measure)
    run("prediction")
    assert [(prepared.execution, axes) for prepared, axes in timed] == [
        ("eager", ()),
        ("auto", ()),
        ("auto", (0, 1, 2)),
    ]
    assert "| auto, batch 3 | mirroring | 1.00 s | 90% in the network |" in capsys.readouterr().out


def test_a_way_to_predict_that_fails_loses_no_other(capsys, monkeypatch):
    prepare = gpu.prepare

    def fail(plan, setting, choice):
        if choice == "eager":
            msg = "no such register"
            raise LookupError(msg)
        return prepare(plan, setting, choice)

    monkeypatch.setattr(gpu, "prepare", fail)
    run("prediction")
    printed = capsys.readouterr().out
    assert "eager prediction is not measured: LookupError: no such register" in printed
    assert printed.count("in the network |") == 2  # the other, without and with mirrored views


def test_a_step_is_tried_in_every_way_but_compiled_ones_whatever_it_takes(tmp_path, monkeypatch):
    asked = {}

    def choose(build, batch, **options):
        asked.update(options)
        return TrainingExecution(memory_format=torch.channels_last)

    monkeypatch.setattr(gpu, "choose_execution", choose)
    monkeypatch.setattr(gpu, "draw_batch", lambda plan, device: None)
    monkeypatch.setattr(gpu, "_build", lambda settings, plan, execution: None)
    monkeypatch.setattr(gpu, "_time", lambda settings, work: 0.001)
    for compiles in (False, True):
        gpu.measure_step(build_settings(tmp_path, compiles=compiles), shape="hippocampus")
        seconds = asked["iterations"] * 0.001
        pays_from = execution_choice.COMPILING_PAYS_SECONDS
        pays_from = pays_from if asked["pays_from_seconds"] is None else asked["pays_from_seconds"]
        assert (seconds >= pays_from) == compiles
        assert execution_choice.TRIALS_SHARE * seconds > 1000
        assert len(asked["variants"]) == 4


def test_another_process_is_ended_with_those_that_it_started_when_the_time_is_over(tmp_path, capsys):
    file = tmp_path / "written"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(file)!r}).touch()"
    start = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}])"
    program = f"{start}; print('a figure', flush=True); time.sleep(60)"
    began = time.perf_counter()
    with pytest.raises(RuntimeError, match="took longer than was left of the time"):
        gpu.run_python(["-c", program], end=began + 1)
    assert time.perf_counter() - began < 10
    assert "a figure" in capsys.readouterr().out
    time.sleep(max(0.0, began + 4 - time.perf_counter()))
    assert not file.exists()


def test_what_another_process_printed_before_it_failed_is_shown(capsys):
    assert gpu.run_python(["-c", "print(1)"], end=math.inf) == "1\n"
    with pytest.raises(RuntimeError, match="failed: ValueError: no"):
        gpu.run_python(["-c", "print('a figure'); raise ValueError('no')"])
    assert capsys.readouterr().out == "a figure\n\n"


def test_no_part_is_begun_after_the_time(capsys):
    run("floor", "kernels", more=("--minutes", "0"))
    printed = capsys.readouterr().out
    assert "floor, which takes about 0 s, would not end within 0 minutes: run it with --only floor" in printed
    assert "| " not in printed.partition("|---|")[2]


def test_parts_that_run_commands_say_what_is_missing_and_do_not_stop_the_next(capsys, monkeypatch):
    commands = []

    def answer(arguments, *, end):
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
    assert "--no-compile" in commands[1]
    modules = [command[1] for command in commands]
    assert modules == ["autoseg", "benchmarks.training_step", "autoseg", "autoseg"]
    assert "--restart" in commands[-1]  # a fold of an earlier call with --work is trained again


def test_a_volume_is_predicted_in_the_way_that_its_many_windows_suggest(monkeypatch, tmp_path):
    found = []

    def prepare(plan, setting, choice):
        found.append((choice, count_patches(ONE_IMAGE, setting.configuration, folds=1)))
        raise RuntimeError

    monkeypatch.setattr(gpu, "prepare", prepare)
    with pytest.raises(RuntimeError):
        gpu.measure_volume(build_settings(tmp_path))
    assert found == [("auto", 4 * 7 * 7)]


def build_settings(tmp_path, **changes):
    values = {"device": torch.device("cuda"), "dtype": "bfloat16", "dataset": tmp_path, "peer": tmp_path}
    values |= {"work": tmp_path, "steps": 1, "is_tiny": False, "compiles": False, "run": None, "steps_of_peer": {}}
    return gpu.GpuSettings(**(values | changes))


def test_the_network_is_compiled_before_the_steps_that_are_compared_with_compiled_ones(monkeypatch):
    found = []

    def start():
        found.append((execution_choice.COMPILING_PAYS_SECONDS, CompilingBeside.has_room(None)))

    monkeypatch.setattr(autoseg.__main__, "main", start)
    monkeypatch.setattr(execution_choice, "COMPILING_PAYS_SECONDS", 1200.0)
    monkeypatch.setattr(CompilingBeside, "has_room", lambda self: True)
    exec(training_step.COMPILING_PROGRAM, {})
    assert found == [(0.0, False)]


def test_a_part_is_begun_only_if_it_fits_into_the_limit(tmp_path):
    assert build_settings(tmp_path).expect("dice") > 240
    assert build_settings(tmp_path, compiles=True).expect("step-128") > build_settings(tmp_path).expect("step-128")
    assert set(gpu.EXPECTED_SECONDS) == set(gpu.PARTS)
    assert max(gpu.EXPECTED_SECONDS.values()) + gpu.COMPILING_SECONDS < 60 * gpu.MINUTES


def test_by_its_estimates_everything_but_five_folds_fits_into_the_limit(tmp_path):
    assert set(gpu.PARTS) - set(gpu.USUAL_PARTS) == {"five-folds"}
    assert sum(build_settings(tmp_path).expect(part) for part in gpu.USUAL_PARTS) <= 60 * gpu.MINUTES
    assert gpu.parse_options([]).only == gpu.USUAL_PARTS


@pytest.mark.parametrize(("compiles", "program"), [(True, "-c"), (False, "-m")])
def test_both_compile_their_networks_or_neither_does(tmp_path, monkeypatch, compiles, program):
    monkeypatch.delenv("nnUNet_compile", raising=False)
    calls = []

    def watch(command, history, log, *, device, environment=None):
        calls.append((command, environment))

    monkeypatch.setattr(training_step, "watch_training", watch)
    effort = training_step.Effort(rounds=1, epochs=2, iterations=5)
    task = training_step.Task(
        dataset=tmp_path, configuration="2d", device="cuda", precision="auto", effort=effort, compiles=compiles
    )
    training_step.time_ours(task, RunFolder(tmp_path), tmp_path / "log")
    training_step.time_theirs(task, Peer(installed=tmp_path, root=tmp_path), tmp_path / "log", tmp_path / "history")
    (ours, _), (_, environment) = calls
    assert ours[1] == program
    assert environment.get("nnUNet_compile", "default") == ("default" if compiles else "false")


@pytest.mark.parametrize(("flags", "compiles"), [((), True), (("--compile",), True), (("--no-compile",), False)])
def test_the_options_of_the_steps_need_no_newer_argparse_than_a_package_may_put_before_python_s(
    monkeypatch, flags, *, compiles
):
    monkeypatch.delattr(argparse, "BooleanOptionalAction")
    monkeypatch.setattr(sys, "argv", ["training_step.py", *flags])
    assert training_step.parse_options().compile == compiles


def test_five_folds_are_trained_in_pieces(tmp_path, capsys):
    commands = []

    def answer(arguments):
        commands.append(arguments[2])
        if arguments[2] == "plan":
            (tmp_path / "five-folds").mkdir()
            (tmp_path / "five-folds" / "plan.json").touch()
        return "what was printed"

    short = build_settings(tmp_path, run=answer, end=0.0)
    gpu.measure_folds(short)
    assert commands == ["plan"]
    assert "fold 0 would not end in time: go on with --only five-folds --work" in capsys.readouterr().out
    (tmp_path / "five-folds" / "fold_0.txt").write_text("200")
    gpu.measure_folds(build_settings(tmp_path, run=answer))
    assert commands[1:] == ["train"] * 4 + ["status"]
    assert "| five folds | 200 + 0 + 0 + 0 + 0 | 200 s |" in capsys.readouterr().out


def test_launches_are_not_counted_beside_the_kernels_that_they_launch():
    kernel = SimpleNamespace(device_type=DeviceType.CUDA, count=3, self_device_time_total=7.0, self_cpu_time_total=0.0)
    launch = SimpleNamespace(device_type=DeviceType.CPU, count=3, self_device_time_total=0.0, self_cpu_time_total=2.0)
    assert gpu.count_kernels([kernel, launch], is_cuda=True) == (3, 7.0)
    assert gpu.count_kernels([kernel, launch], is_cuda=False) == (3, 2.0)


def test_prediction_is_compiled_only_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "list_available", lambda setting: {"captured": "1", "fused": "1", "compiled": "1"})
    plain, compiling = (build_settings(tmp_path, compiles=compiles) for compiles in (False, True))
    assert gpu.list_choices(plain, None) == ["eager", "captured", "fused"]
    assert gpu.list_choices(compiling, None) == ["eager", "captured", "fused", "compiled"]


def test_every_part_has_a_row_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    names = {"step-..." if name.startswith("step-") else name for name in gpu.PARTS}
    assert all(f"| `{name}` |" in page for name in names)
