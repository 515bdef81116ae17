"""Copies from RAM to the memory of a device."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def choose_device(device: torch.device) -> None:
    """For threads, at their start: each begins with the first device, and would take some of its memory even if it
    works on another one."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def copy_to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device; the calling thread does not wait for it, nor for anything that the device still does."""
    return move_to_device(torch.from_numpy(np.array(array)), device)


def move_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor itself if it is there already. CUDA copies without a stop from page-locked memory alone."""
    if device.type != "cuda" or tensor.is_cuda or tensor.numel() == 0:
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)
