"""Copies and work of a CUDA device beside what it computes; on other devices everything is done at once."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


@functools.cache
def find_stream(device: torch.device, purpose: str) -> torch.cuda.Stream:
    """Returns the stream of a purpose, always the same one.

    PyTorch keeps freed memory for the stream that it was used on, and makes 32 streams, which it then gives away again:
    work of one purpose would run on the stream that another one is being captured on.
    """
    del purpose
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def copy_to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copies values to a device; those for a CUDA device go through page-locked memory and are not waited for."""
    if device.type == "cuda" and values.device.type == "cpu" and not torch.compiler.is_compiling():
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def fill_numbers(
    numbers: Sequence[float | int],
    device: torch.device,
    *,
    shape: Sequence[int] = (-1,),
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Makes a tensor of a few numbers on a device; a copy of them would wait for it, and be no part of a CUDA graph.

    Args:
        numbers: The numbers.
        device: Device of the tensor.
        shape: Its shape, of which one extent may be -1.
        dtype: None for that of PyTorch: int64 for integers, float32 for others.
    """
    filled = [torch.full((), number, dtype=dtype, device=device) for number in numbers]
    return torch.stack(filled).reshape(tuple(shape))


def start_copy_to_cpu(values: Tensor) -> Callable[[], Tensor]:
    """Starts to copy values to the CPU; returns a function that waits for the copy and returns it."""
    if not values.is_cuda:
        return values.cpu
    beside = find_stream(values.device, "copies")
    beside.wait_stream(torch.cuda.current_stream(values.device))
    with torch.cuda.stream(beside):
        copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        copy.copy_(values, non_blocking=True)
        values.record_stream(beside)
        arrived = beside.record_event()

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait


def postpone_on_gpu(work: Callable[[], Made], device: torch.device) -> Callable[[], Made]:
    """Leaves work to whoever calls the returned function, in whatever thread, if the device is a CUDA device.

    It then runs on a stream of its own, after all that the caller has launched until now and beside what it launches
    from then on. On other devices the work is done here, and the function returns its result.
    """
    if device.type != "cuda":
        made = work()
        return lambda: made
    launched = torch.cuda.current_stream(device).record_event()

    def run() -> Made:
        beside = find_stream(device, "postponed work")
        beside.wait_event(launched)
        with torch.cuda.stream(beside):
            result = work()
        beside.synchronize()  # what the work has read may be freed from now on
        return result

    return run
