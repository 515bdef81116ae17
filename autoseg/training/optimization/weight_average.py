"""Moving average of the weights, which changes less from step to step and often predicts better."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(slots=True, kw_only=True)
class WeightAverage:
    """Exponential moving average (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv:1703.01780).

    Buffers of floating-point numbers, such as the running statistics of a batch normalization, are averaged, too, so
    that they belong to the averaged weights; counts are not.

    Attributes:
        parameters: The weights that are averaged.
        buffers: The buffers that are averaged.
        decay: Share of the old average in the new one, once there have been enough updates; 0 to below 1.
        updates: Number of updates so far.
        values: The average of each parameter, then of each buffer.
    """

    parameters: Sequence[nn.Parameter]
    decay: float
    buffers: Sequence[Tensor] = ()
    updates: int = 0
    values: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Starts the average at the first weights."""
        self.values = [tensor.detach().clone() for tensor in self.averaged]

    @property
    def averaged(self) -> list[Tensor]:
        """The tensors of the network that are averaged, in the order of `values`."""
        return [*self.parameters, *self.buffers]

    def list_stored(self, count: int) -> list[Tensor]:
        """Lists the values that a checkpoint of so many averages holds; an earlier version averaged no buffers."""
        return self.values[:count] if count == len(self.parameters) else self.values

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the present weights: by 1 - decay, but faster at first.

        Update n has the decay min(decay, (1 + n) / (10 + n)), so that the first weights soon lose their influence.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, self.averaged, 1 - decay)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Gives the network the averaged weights within the context, and its own weights again afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for tensor, value in zip(self.averaged, self.values, strict=True):
            kept = tensor.detach().clone()
            tensor.copy_(value)
            value.copy_(kept)


def list_averaged_buffers(network: nn.Module) -> list[Tensor]:
    """Lists the floating-point buffers that a checkpoint of the network holds, in its order."""
    kept = network.state_dict().keys()
    return [buffer for name, buffer in network.named_buffers() if name in kept and buffer.is_floating_point()]
