"""CUDA graphs without CUDA: operations on the CPU that are recorded with their tensors, and repeated on them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoseg.runtime.cuda_graphs import CapturedWork


class Tape(TorchDispatchMode):
    """Records the operations within the context; as on CUDA, none may read a value."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "_local_scalar_dense":
            msg = "operation not permitted when stream is capturing"
            raise RuntimeError(msg)
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in returns)
        if not is_view:
            is_new = all(value.alias_info is None for value in returns)
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)] if is_new else []
            self.calls.append((func, args, kwargs or {}, made))
        return result

    @torch.no_grad()
    def repeat(self) -> None:
        """Calls the operations again, and puts their results where they were when they were recorded."""
        for func, args, kwargs, made in self.calls:
            again = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
            for old, new in zip(made, again, strict=bool(made)):
                old.copy_(new)


@dataclass(slots=True, kw_only=True)
class TapeGraphs:
    """Takes the place of `CudaGraphs`. Recording runs the work, so the first replay does nothing.

    Attributes:
        calls: What was asked for, in order.
        failure: Raised instead of capturing; None: work is captured.
    """

    calls: list[str] = field(default_factory=list)
    failure: Exception | None = None

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Runs the work."""
        self.calls.append("warm up")
        return work()

    def capture(self, work: Callable[[], Tensor]) -> CapturedWork:
        """Records the work."""
        self.calls.append("capture")
        if self.failure is not None:
            raise self.failure
        with Tape() as tape:
            result = work()
        captured = len(self.calls)

        def replay() -> None:
            self.calls.append("replay")
            if len(self.calls) > captured + 1:
                tape.repeat()

        return CapturedWork(result=result, replay=replay)
