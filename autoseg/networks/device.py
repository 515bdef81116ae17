"""Finds the device that runs a network."""

import torch

from autoseg.errors import DeviceError


def find_device(name: str) -> torch.device:
    """Turns "auto", "cpu", "cuda", "cuda:1" or "mps" into a device that exists.

    "auto" takes the first CUDA device, else Apple's MPS, else the processor.

    Raises:
        DeviceError: The name is unknown, or the computer has no such device.
    """
    if name == "auto":
        return _find_best_device()
    device = _parse_device(name)
    if device.type == "cuda":
        return _check_cuda(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        msg = "no MPS device: PyTorch finds no Apple GPU here; use --device cpu"
        raise DeviceError(msg)
    return device


def _find_best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _parse_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda", "mps"}:
        msg = f"the device must be auto, cpu, cuda, cuda:N or mps, found {name!r}"
        raise DeviceError(msg)
    return device


def _check_cuda(device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index < count:
        return torch.device("cuda", index)
    found = f"PyTorch {torch.__version__} finds {count or 'no'} CUDA device{'' if count == 1 else 's'}"
    hint = "use --device cpu, or install a PyTorch built for CUDA and check the driver with nvidia-smi"
    msg = f"no device {device}: {found}; {hint if count == 0 else f'use cuda:0 to cuda:{count - 1}'}"
    raise DeviceError(msg)
