import os
import stat

import pytest

from autoseg.runtime import device_use
from autoseg.runtime.device_use import MPS_VARIABLE, describe_sharing, measure_device_use
from autoseg.workflows.folds.status import FoldStatus
from autoseg.workflows.train.device_watch import SAMPLES, DeviceWatch, describe_shared_devices

WAITING = FoldStatus(configuration="2d", fold="9", state="waiting")


def make_statuses(*devices, state="training"):
    return tuple(
        FoldStatus(configuration="2d", fold=str(fold), state=state, device=device)
        for fold, device in enumerate(devices)
    )


def watch(statuses, use, seconds=2 * SAMPLES):
    told, asked = [], []

    def measure(index):
        asked.append(index)
        return use

    shown = list(DeviceWatch(announce=told.append, measure=measure).follow([statuses] * seconds))
    assert shown == [statuses] * seconds
    return told, asked


@pytest.mark.parametrize(
    ("use", "devices"), [(0.43, "--devices 0,0 "), (0.3, "--devices 0,0,0 "), (0.01, "--devices 0,0,0,0 ")]
)
def test_several_folds_at_once_are_proposed_once_where_one_leaves_the_gpu_idle(use, devices):
    told, asked = watch((*make_statuses("cuda:0"), WAITING), use)
    assert asked == [0] * SAMPLES
    assert len(told) == 1
    assert f"cuda:0 computes {use:.0%} of the time" in told[0]
    assert devices in told[0]
    assert "Multi-Process Service" in told[0]


@pytest.mark.parametrize(
    ("statuses", "use"),
    [
        ((*make_statuses("cuda:0"), WAITING), 0.8),
        ((*make_statuses("cuda:0"), WAITING), None),
        (make_statuses("cuda:0"), 0.1),
        ((*make_statuses("cuda:0", "cuda:0"), WAITING), 0.1),
        ((*make_statuses("cuda:0", state="validating"), WAITING), 0.1),
        ((*make_statuses("cuda:0+cuda:1"), WAITING), 0.1),
        ((*make_statuses("cpu"), WAITING), 0.1),
    ],
)
def test_nothing_is_proposed_where_it_would_not_help_or_is_done_already(statuses, use):
    assert watch(statuses, use)[0] == []


def test_folds_that_share_a_gpu_are_announced_with_how_they_share_it():
    assert describe_shared_devices(["cuda:0", "cuda:1", "cpu", "cpu"]) == []
    (line,) = describe_shared_devices(["cuda:0", "cuda:0", "cuda:0", "cuda:1"])
    assert line.startswith("3 folds at once on cuda:0: NVIDIA's Multi-Process Service ")


def test_the_multi_process_service_is_found_by_its_pipe(monkeypatch, tmp_path):
    monkeypatch.setenv(MPS_VARIABLE, str(tmp_path))
    assert "does not run" in describe_sharing()
    (tmp_path / "control").touch()
    assert "side by side" in describe_sharing()


@pytest.mark.skipif(os.name == "nt", reason="a program is a shell script here")
def test_the_use_of_a_gpu_is_what_its_driver_says(monkeypatch, tmp_path):
    monkeypatch.setattr(device_use.shutil, "which", lambda name: None)
    assert measure_device_use() is None
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ncase "$3" in --id=7) echo 43;; --id=1) echo "[N/A]";; esac\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(device_use.shutil, "which", lambda name: str(program))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert measure_device_use(7) == 0.43
    assert measure_device_use(1) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    assert measure_device_use(1) == 0.43
