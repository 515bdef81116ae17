"""What a process needs to know where several train one network together, each with a part of every batch."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


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
