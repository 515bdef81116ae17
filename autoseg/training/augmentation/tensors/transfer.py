"""Copies from RAM to the memory of a device."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def choose_device(device: torch.device) -> None:
    """Sets the device of a new thread, which would otherwise take some of the first device's memory even if it
    works on another one."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def copy_to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copies to the device asynchronously: the calling thread does not wait for the device."""
    return move_to_device(torch.from_numpy(np.array(array)), device)


def move_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns the tensor itself if it is there already. CUDA copies asynchronously only from page-locked memory."""
    if device.type != "cuda" or tensor.is_cuda or tensor.numel() == 0:
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)
