"""Networks that PyTorch compiles for the processor (torch.compile), which needs a C++ compiler."""

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
    """A network whose passes of one size are compiled; other sizes, of which there are few, take the usual way."""

    def __init__(self, network: nn.Module, call: Call, patches_per_pass: int) -> None:
        super().__init__()
        self.network = network
        self.call = call
        self.patches_per_pass = patches_per_pass

    def forward(self, image: Float32[Tensor, "batch channel *space"]) -> tuple[Float32[Tensor, "batch output *space"]]:
        """Returns logits of the full resolution, and nothing else."""
        if len(image) != self.patches_per_pass:
            logits: Tensor = self.network(image)[0]
            return (logits,)
        return (self.call(dict(self.network.state_dict()), image)[0],)


def find_compiler() -> str | None:
    """The C++ compiler that PyTorch would take: the one that CXX names, else the first usual one."""
    named = os.environ.get("CXX")
    found = (shutil.which(name) for name in ((named,) if named else COMPILERS))
    return next((path for path in found if path), None)


def compile_networks(networks: Sequence[nn.Module], *, patches_per_pass: int) -> tuple[nn.Module, ...]:
    """Networks of one plan that share one compilation, which takes place in the first pass.

    Args:
        networks: Of `prepare_network`, on the processor.
        patches_per_pass: Size of the passes to compile for.
    """
    # Weights are arguments, so that what was compiled serves every fold and is found again in PyTorch's cache.
    skeleton = networks[0]

    def call(weights: dict[str, Tensor], image: Tensor) -> tuple[Tensor]:
        logits: Tensor = functional_call(skeleton, weights, (image,))[0]
        return (logits,)

    # In this process: each of PyTorch's helpers for many kernels takes as much memory as a small network's prediction.
    # The number of threads is that of the moment, as in what PyTorch does not compile.
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "compile_threads": 1,
        "cpp.dynamic_threads": True,
        "guard_filter_fn": _allow_other_threads,
    }
    compiled = torch.compile(call, dynamic=False, fullgraph=True, options=options)
    return tuple(CompiledNetwork(network, compiled, patches_per_pass) for network in networks)


def _allow_other_threads(guards: Sequence[Any]) -> list[bool]:
    """Which conditions make PyTorch compile anew: all but those of its state, to which the number of threads belongs.

    Another number would be another compilation, and the ninth an error. Nothing else of that state (autocast, numbers
    that matrices are multiplied in) differs between two passes of a prediction.
    """
    return [guard.guard_type != STATE_GUARD for guard in guards]
