"""CUDA graphs: work of a device that is recorded once and then repeated by a single launch.

A graph repeats the same kernels on the same memory. What the work reads must therefore be copied into the tensors that
it was recorded with, and nothing of it may depend on a number that the CPU knew when it was recorded. Random numbers
are drawn anew: PyTorch hands the state of the device's generator to every replay.

PyTorch keeps the memory of a capture that fails until the process ends, and before version 2.13 a failure may leave its
allocator as if a capture were still under way (pull requests 180395 and 190308): it then frees no memory that several
streams have used, and refuses to empty its cache. So `rehearse` looks for what prevents a capture while the work is run
for the last time before one, and PyTorch is told that a capture which failed is over.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoseg.runtime.streams import find_stream

Work = Callable[[], Tensor]
Returned = TypeVar("Returned")

CAPTURES: Final = "captures"  # of a stream
READING_OPERATIONS: Final = frozenset(
    {"_local_scalar_dense", "bincount", "equal", "masked_select", "nonzero", "unique_consecutive", "unique_dim"}
    | {"_unique", "_unique2", "linalg_eigvals", "linalg_lstsq"}
)
"""Operations that wait for the device, because the CPU needs a value, or the shape of the result is one."""
INDEXING_OPERATIONS: Final = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
"""Operations that wait for the device where an index is a mask."""
COPYING_OPERATIONS: Final = frozenset({"_to_copy", "copy_", "_copy_from"})
COPIED_LIST: Final = "lift_fresh"
"""All that is shown of `torch.tensor`, once the numbers have been copied; of a single number also of other calls, which
copy nothing."""


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
    """Captures work of a CUDA device, on a stream beside all others, which keeps its memory for all calls.

    All that is captured here shares memory, so it must not be replayed at the same time, and a result must be copied
    before another is replayed.
    """

    device: torch.device
    _pool: Any = None

    def warm_up(self, work: Work) -> Tensor:
        """Runs the work on the stream on which it will be captured."""
        current, beside = torch.cuda.current_stream(self.device), find_stream(self.device, CAPTURES)
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
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        beside = find_stream(self.device, CAPTURES)
        recording = torch.cuda.graph(graph, pool=self._find_pool(), stream=beside, capture_error_mode="thread_local")
        with torch.cuda.device(self.device), postpone_garbage_collection():
            try:
                with recording:
                    result = work()
            except Exception:
                torch.cuda.set_stream(current)  # PyTorch leaves the other one where ending the capture fails, too
                _forget_capture(torch.cuda.current_device(), self._pool)
                raise
        return CapturedWork(result=result, replay=graph.replay)

    def _find_pool(self) -> Any:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool


def _forget_capture(index: int, pool: Any) -> None:
    """Tells PyTorch's allocator and generator of a device that a capture which failed is over, where they do not know:
    a generator that takes one to be under way refuses to draw."""
    with suppress(AttributeError, RuntimeError):  # most often both know; graphs of before then keep their generator
        torch._C._cuda_endAllocateToPool(index, pool)
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())


@contextmanager
def postpone_garbage_collection() -> Iterator[None]:
    """Collects garbage before the block and not within it: an old graph that is freed would end a capture."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class CaptureObstacles(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds, while it is active, the operation that prevents that work of a device is captured.

    Attributes:
        found: Description of the first one; None if there is none.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.found: str | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled within; to say so to the compiler would import it, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation after a look at it."""
        if self.found is None:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.found = self._find_obstacle(func.overloadpacket.__name__, args, kwargs or {}, tensors=tensors)
        return func(*args, **(kwargs or {}))

    def _find_obstacle(self, name: str, args: Any, kwargs: Any, *, tensors: list[Tensor]) -> str | None:
        is_here = any(tensor.device == self.device for tensor in tensors)
        if name in READING_OPERATIONS and is_here:
            return f"{name} waits for the device"
        if name in INDEXING_OPERATIONS and is_here:
            indices = _list_indices(args)
            if any(index.dtype == torch.bool for index in indices):
                return f"{name} with a mask waits for the device"
            if any(index.device != self.device for index in indices):
                return f"{name} copies its indices to the device"
        if name == COPIED_LIST and is_here and any(tensor.ndim > 0 for tensor in tensors):
            return "torch.tensor copies numbers to the device"
        if name in COPYING_OPERATIONS and self._crosses(kwargs, tensors):
            return f"{name} copies between the device and the CPU"
        return None

    def _crosses(self, kwargs: Any, tensors: list[Tensor]) -> bool:
        kinds = {tensor.device.type for tensor in tensors}
        if kwargs.get("device") is not None:
            kinds.add(torch.device(kwargs["device"]).type)
        return self.device.type in kinds and len(kinds) > 1


def _list_indices(args: Any) -> list[Tensor]:
    return [index for index in args[1] if isinstance(index, Tensor)]


def rehearse(work: Callable[[], Returned], device: torch.device) -> tuple[Returned, str | None]:
    """Runs work of a device; returns its result, and what prevents that it is captured, None if nothing is known."""
    is_differentiated = torch.is_grad_enabled()
    # In inference mode PyTorch does not show that a value is read.
    with (
        torch.inference_mode(mode=False),
        torch.set_grad_enabled(is_differentiated),
        CaptureObstacles(device) as obstacles,
    ):
        result = work()
    return result, obstacles.found
