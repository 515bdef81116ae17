"""Resolves the devices on which folds are trained: one fold on each, or every fold on all of them together."""

import os
from collections.abc import Sequence
from typing import Final

import torch

from autoseg.errors import OptionError, TrainingError
from autoseg.places.local import Devices
from autoseg.runtime.device import find_device

RANK: Final = "RANK"
LOCAL_RANK: Final = "LOCAL_RANK"


def find_device_groups(device: str, devices: str | None, *, parallel: bool) -> tuple[Devices, ...]:
    """Returns the groups of devices, each of which trains one fold at a time.

    Args:
        device: Name of one device; "auto" for no preference.
        devices: Comma-separated list, in which CUDA devices may be named by their number alone: "0,1,2", "cpu".
        parallel: Whether all devices train each fold together. A process that was started as one of several trains on
            its own device.

    Raises:
        OptionError: The list cannot be read, or contradicts `device` or `parallel`.
        DeviceError: A device does not exist.
    """
    if devices is not None and device != "auto":
        msg = f"give --device {device} or --devices {devices}, not both"
        raise OptionError(msg)
    names = (device,) if devices is None else parse_devices(devices)
    if parallel and RANK in os.environ:
        return ((_find_own_device(names),),)
    found = tuple(str(find_device(name)) for name in names)
    if parallel and len(found) == 1:
        msg = f"--parallel needs several devices, for example --devices 0,1 (found {found[0]})"
        raise OptionError(msg)
    return (found,) if parallel else tuple((name,) for name in found)


def is_main_process(*, parallel: bool) -> bool:
    """Whether this process writes results, rather than helping another process that does."""
    return not parallel or os.environ.get(RANK, "0") == "0"


def _find_own_device(names: Sequence[str]) -> str:
    """Finds the device of this process, one of several that train together on this computer.

    Raises:
        DeviceError: There is no such device.
        OptionError: There are more processes than devices in the list.
    """
    index = int(os.environ.get(LOCAL_RANK, "0"))
    if len(names) > 1:
        if index >= len(names):
            msg = f"process {index} of this computer needs a device of its own in --devices {','.join(names)}"
            raise OptionError(msg)
        return str(find_device(names[index]))
    if names[0] == "auto" and torch.cuda.is_available():
        return str(find_device(f"cuda:{index}"))
    return str(find_device(names[0]))


def parse_devices(text: str) -> Devices:
    """Parses a list of devices like 0,1,2 (CUDA) or cpu.

    Raises:
        OptionError: The list has an empty entry.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        msg = f"--devices needs a list such as 0,1,2 or cpu, found {text!r}"
        raise OptionError(msg)
    return tuple(f"cuda:{name}" if name.isdecimal() else name for name in names)


def is_one_process(units: Sequence[str], device_groups: Sequence[Devices], *, parallel: bool) -> bool:
    """Whether this process trains the named units, rather than starting others that do.

    Raises:
        TrainingError: It was started as one of several that train one fold together, but several folds are requested.
    """
    is_alone = len(device_groups) == 1 and len(device_groups[0]) == 1
    if is_alone and parallel and len(units) > 1:
        msg = (
            f"processes that train together train one fold, found {', '.join(units)}; "
            f"name one with --configuration and --fold"
        )
        raise TrainingError(msg)
    return is_alone and len(units) == 1
