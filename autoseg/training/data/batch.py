"""A batch, and the part of it that one process sees where several train one network together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float32, Int16
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Patches and their internal labels (0 and up; the ignore label is the last)."""

    image: Float32[Tensor, "batch channel *space"]
    label_map: Int16[Tensor, " batch *space"]

    def pin_memory(self) -> "Batch":
        """A copy from which a CUDA device can read while the CPU goes on (called by torch's loader)."""
        return Batch(image=self.image.pin_memory(), label_map=self.label_map.pin_memory())

    def move_to(self, device: torch.device) -> "Batch":
        """A copy on the device."""
        return Batch(
            image=self.image.to(device, non_blocking=True), label_map=self.label_map.to(device, non_blocking=True)
        )


def keep(value: Tensor) -> Tensor:
    """The sum over one process."""
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """The part of every batch that this process sees; by default all of it.

    Attributes:
        share: Of the samples.
        add_up: Sums over all parts; the gradient is that of the own summand. Every process must call it alike.
    """

    share: float = 1.0
    add_up: Callable[[Tensor], Tensor] = keep


WHOLE_BATCH: Final = BatchPart()
