"""Networks compiled for the CPU by torch.compile, which needs a C++ compiler."""

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.func import functional_call

COMPILERS: Final = ("g++", "clang++", "c++", "cl")
STATE_GUARD: Final = "GLOBAL_STATE"  # as PyTorch calls it

Call = Callable[[dict[str, Tensor], Tensor], tuple[Tensor]]


class CompiledNetwork(nn.Module):
    """A network that is compiled for one batch size; other sizes, which are rare, run in eager PyTorch."""

    def __init__(self, network: nn.Module, call: Call, inference_batch_size: int) -> None:
        super().__init__()
        self.network = network
        self.call = call
        self.inference_batch_size = inference_batch_size

    def forward(self, image: Float32[Tensor, "batch channel *space"]) -> tuple[Float32[Tensor, "batch output ..."]]:
        """Returns logits of the full resolution, and nothing else."""
        if len(image) != self.inference_batch_size:
            logits: Tensor = self.network(image)[0]
            return (logits,)
        return (self.call(dict(self.network.state_dict()), image)[0],)


def find_compiler() -> str | None:
    """Finds the C++ compiler that PyTorch would use: that of CXX, else the first usual one."""
    named = os.environ.get("CXX")
    found = (shutil.which(name) for name in ((named,) if named else COMPILERS))
    return next((path for path in found if path), None)


def compile_networks(networks: Sequence[nn.Module], *, inference_batch_size: int) -> tuple[nn.Module, ...]:
    """Compiles networks of one plan, which share one compilation; it takes place in the first call.

    Args:
        networks: Returned by `prepare_network`, on the CPU.
        inference_batch_size: The batch size to compile for.
    """
    # Weights are arguments, so that the compiled code serves every fold and is found in PyTorch's cache.
    skeleton = networks[0]

    def call(weights: dict[str, Tensor], image: Tensor) -> tuple[Tensor]:
        logits: Tensor = functional_call(skeleton, weights, (image,))[0]
        return (logits,)

    # In this process: each of PyTorch's compile workers takes as much memory as a small network's prediction.
    # The number of threads is the current one, as in eager PyTorch.
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "compile_threads": 1,
        "cpp.dynamic_threads": True,
        "guard_filter_fn": _allow_other_threads,
    }
    compiled = torch.compile(call, dynamic=False, fullgraph=True, options=options)
    return tuple(CompiledNetwork(network, compiled, inference_batch_size) for network in networks)


def _allow_other_threads(guards: Sequence[Any]) -> list[bool]:
    """Keeps all guards but those of PyTorch's global state, to which the number of threads belongs.

    Otherwise every other number would cause a recompilation, and the ninth an error. Nothing else of that state
    (autocast, precision of matrix products) differs between two calls of a prediction.
    """
    return [guard.guard_type != STATE_GUARD for guard in guards]
