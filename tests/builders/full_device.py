"""A device whose memory is full, on a computer without one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoseg.inference.ensemble import Ensemble

FREE = ("__get__", "__getitem__", "__len__", "as_subclass")
"""Names of what needs no memory."""


class FullDeviceTensor(Tensor):
    """A tensor on a device whose memory is full: nothing can be computed of it."""

    device = torch.device("meta")

    def cpu(self) -> Tensor:
        """The same in RAM."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ not in FREE:
            raise torch.OutOfMemoryError
        return super().__torch_function__(func, types, args, kwargs or {})


class FullDeviceEnsemble(Ensemble):
    """Models whose logits fill the memory of the device."""

    def predict_case(self, *args: Any, **options: Any) -> tuple[Tensor, ...]:
        """The same logits."""
        return tuple(part.as_subclass(FullDeviceTensor) for part in Ensemble.predict_case(self, *args, **options))

    def restore_label_map(self, logits: Sequence[Tensor], *args: Any, **options: Any) -> Any:
        """The label map of logits in RAM."""
        return Ensemble.restore_label_map(self, [part.cpu() for part in logits], *args, **options)
