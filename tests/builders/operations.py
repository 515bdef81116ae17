"""Records of the operations that a device would be given, taken on the CPU."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They compute nothing and start nothing on a device.
FREE_OPERATIONS: Final = frozenset({"aten.empty", "aten._unsafe_view", "aten.lift_fresh", "aten.detach"})
Operation = tuple[str, tuple[tuple[int, ...], ...]]


class OperationRecord(TorchDispatchMode):
    """Records operations while it is active; views are left out.

    Attributes:
        operations: The name of each operation, and the shapes of what it takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and to say so to the compiler would take seconds to import it."""
        return False

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation, and records it."""
        name = str(function.overloadpacket)
        if not function.is_view and name not in FREE_OPERATIONS:
            shapes = tuple(tuple(leaf.shape) for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
            self.operations.append((name, shapes))
        return function(*args, **(kwargs or {}))


def record_operations(work: Callable[[], object]) -> list[Operation]:
    """Records the operations of some work, in their order."""
    with OperationRecord() as record:
        work()
    return record.operations
