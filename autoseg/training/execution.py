"""How a network is executed while it trains: its order in memory, and whether it is compiled."""

from dataclasses import dataclass

import torch

from autoseg.networks.blocks import CHANNELS_LAST
from autoseg.networks.precision import NumberType


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One way to execute a network; all ways compute the same up to rounding.

    Attributes:
        memory_format: Order of inputs and weights in memory.
        compiler: Backend of torch.compile; None: PyTorch executes one operation after the other.
    """

    memory_format: torch.memory_format
    compiler: str | None = None

    def describe(self) -> str:
        """For messages."""
        order = "channel by channel" if self.memory_format == torch.contiguous_format else "channels last"
        return f"{order}, compiled" if self.compiler else order


def find_execution(dimensions: int, device: torch.device, number_type: NumberType) -> Execution:
    """Without measuring: channels last on a GPU in reduced precision, whose matrix units need it; else channel by
    channel.

    On a processor convolutions are up to 1.2 times as fast with channels last, but normalization loses more than that
    (a step of the default Hippocampus plan in bfloat16: 1.84 s with channels last, 1.43 s without), and a compiled
    network is not faster.
    """
    if device.type == "cuda" and number_type != "float32":
        return Execution(memory_format=CHANNELS_LAST[dimensions])
    return Execution(memory_format=torch.contiguous_format)
