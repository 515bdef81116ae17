import warnings

import pytest
import torch

from autoseg.errors import DeviceError
from autoseg.runtime import device as runtime_device
from autoseg.runtime.device import collect_garbage, find_device


def test_the_cpu_can_be_asked_for():
    assert find_device("cpu") == torch.device("cpu")


def test_auto_takes_the_first_cuda_device_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda", 0)


def test_auto_takes_the_cpu_where_there_is_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")


def test_cuda_means_its_first_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda") == torch.device("cuda", 0)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="finds 2 CUDA devices; use cuda:0 to cuda:1"):
        find_device("cuda:2")


def test_missing_devices_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"no device cuda: .*no CUDA devices; use --device cpu"):
        find_device("cuda")
    with pytest.raises(DeviceError, match="no MPS device"):
        find_device("mps")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "xpu"])
def test_unknown_names_are_refused(name):
    with pytest.raises(DeviceError, match="must be auto, cpu, cuda, cuda:N or mps"):
        find_device(name)


def test_a_driver_that_cannot_be_used_is_a_warning(monkeypatch, caplog):
    def warn() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver\non your system is too old", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    (message,) = caplog.messages
    assert (
        "no GPU is used, although there is a driver: CUDA initialization: The NVIDIA driver on your system" in message
    )


def test_garbage_is_collected_for_a_gpu_alone(monkeypatch):
    collected = []
    monkeypatch.setattr(runtime_device.gc, "collect", lambda: collected.append(1))
    collect_garbage(torch.device("cpu"))
    assert collected == []
    collect_garbage(torch.device("cuda", 0))
    assert collected == [1]
