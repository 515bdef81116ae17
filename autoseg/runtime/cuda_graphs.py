"""CUDA graphs: work of a device that is recorded once and then repeated by a single launch.

A graph repeats the same kernels on the same memory. What the work reads must therefore be copied into the tensors that
it was recorded with, and nothing of it may depend on a number that the CPU knew when it was recorded. Random numbers
are drawn anew: PyTorch hands the state of the device's generator to every replay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Work = Callable[[], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedWork:
    """Work that can be repeated.

    Attributes:
        result: The tensor that the work returned; every replay overwrites it.
        replay: Repeats the work.
    """

    result: Tensor
    replay: Callable[[], None]


@runtime_checkable
class GraphBackend(Protocol):
    """Captures work of a device."""

    def warm_up(self, work: Work) -> Tensor:
        """Runs the work as it is run before it is captured, and returns its result."""
        ...

    def capture(self, work: Work) -> CapturedWork:
        """Records the work without running it.

        Raises:
            Exception: It cannot be captured; the state of the device is as before.
        """
        ...


@dataclass(slots=True, kw_only=True)
class CudaGraphs:
    """Captures work of a CUDA device, on a stream beside the current one, which keeps its memory for all calls."""

    device: torch.device
    _beside: torch.cuda.Stream | None = None

    def warm_up(self, work: Work) -> Tensor:
        """Runs the work on the stream on which it will be captured."""
        current, beside = torch.cuda.current_stream(self.device), self._find_stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            result = work()
        current.wait_stream(beside)
        result.record_stream(current)
        return result

    def capture(self, work: Work) -> CapturedWork:
        """Records the work; threads that make batches may use the device meanwhile.

        Raises:
            RuntimeError: The work waits for the device, or copies memory that is not page-locked.
        """
        graph, beside = torch.cuda.CUDAGraph(), self._find_stream()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
            result = work()
        return CapturedWork(result=result, replay=graph.replay)

    def _find_stream(self) -> torch.cuda.Stream:
        if self._beside is None:
            self._beside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return self._beside
