"""Copies from RAM to the memory of a device."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT_BYTES: Final = 16  # no type of values has more


def choose_device(device: torch.device) -> None:
    """Sets the device of a new thread, which would otherwise take some of the first device's memory even if it
    works on another one."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def copy_to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copies to the device asynchronously: the calling thread does not wait for the device."""
    return move_to_device(torch.from_numpy(np.array(array)), device)


def copy_together(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Copies many small arrays to the device asynchronously, in one copy; floats in single precision."""
    parts = [np.ascontiguousarray(_to_single_precision(array)) for array in arrays]
    starts = np.cumsum([0, *(-(-part.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for part in parts)]).tolist()
    packed = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    in_ram = packed.numpy()
    for part, start in zip(parts, starts, strict=False):
        in_ram[start : start + part.nbytes] = part.reshape(-1).view(np.uint8)
    moved = move_to_device(packed, device)
    views = {part.dtype: moved.view(_find_dtype(part)) for part in parts}
    return [
        views[part.dtype].as_strided(part.shape, _list_strides(part.shape), start // part.itemsize)
        for part, start in zip(parts, starts, strict=False)
    ]


def move_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns the tensor itself if it is there already. CUDA copies asynchronously only from page-locked memory."""
    if device.type != "cuda" or tensor.is_cuda or tensor.numel() == 0:
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


def _to_single_precision(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _list_strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _find_dtype(array: NDArray[Any]) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, array.dtype.name)
    return dtype
