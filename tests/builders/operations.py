"""Counts of the operations that a device would be given, taken on the CPU."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from torch.utils._python_dispatch import TorchDispatchMode

# They compute nothing and start nothing on a device.
FREE_OPERATIONS: Final = frozenset({"aten.empty", "aten._unsafe_view", "aten.lift_fresh", "aten.detach"})


class OperationCount(TorchDispatchMode):
    """Counts operations by name while it is active; views are left out.

    Attributes:
        counts: How often each operation was called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and to say so to the compiler would take seconds to import it."""
        return False

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation, and counts it."""
        name = str(function.overloadpacket)
        if not function.is_view and name not in FREE_OPERATIONS:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def count_operations(work: Callable[[], object]) -> Counter[str]:
    """Counts the operations of some work."""
    with OperationCount() as count:
        work()
    return count.counts
