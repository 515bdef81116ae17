"""Losses that are read from the device some steps later, several at once, so that no step waits for the device."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autoseg.runtime.streams import start_copy_to_cpu


@dataclass(slots=True, kw_only=True)
class LateLosses:
    """The losses of steps that the device may still be computing.

    As soon as there are `read_together`, their copy to the CPU is started, and the one before it, which has long been
    made, is read. So the device always has work, and the CPU is never more than twice as many steps ahead.

    Attributes:
        read_together: Number of losses in a copy; with 1, each is read at once.
    """

    read_together: int
    _waiting: list[Tensor] = field(default_factory=list)
    _copied: list[Callable[[], Tensor]] = field(default_factory=list)

    def add(self, loss: Tensor) -> list[float]:
        """Adds the loss of a step; returns those of earlier steps that are known now, in their order."""
        self._waiting.append(loss)
        if self.read_together == 1:
            return self.read_all()
        if len(self._waiting) < self.read_together:
            return []
        known = self._read_copied()
        self._start_copy()
        return known

    def read_all(self) -> list[float]:
        """Waits for the device and returns all losses that were not returned before."""
        self._start_copy()
        return self._read_copied()

    def _start_copy(self) -> None:
        if self._waiting:
            self._copied.append(start_copy_to_cpu(torch.stack(self._waiting)))
            self._waiting.clear()

    def _read_copied(self) -> list[float]:
        known = [loss for read in self._copied for loss in read().tolist()]
        self._copied.clear()
        return known
