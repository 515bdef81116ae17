"""Arrays of which the last three axes are seen in another order, read where they are sliced."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from autoseg.geometry import IntTriple
from autoseg.preprocessing.stored_array import LazyArray

UNCHANGED: Final[IntTriple] = (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedArray:
    """An array whose last three axes are in another order; slicing reads from the array what it needs.

    Attributes:
        array: The array.
        axes: The axis of the array, of the last three, that each of the last three is.
    """

    array: LazyArray
    axes: IntTriple

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the other order."""
        *leading, z, y, x = self.array.shape
        return (*leading, *((z, y, x)[axis] for axis in self.axes))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.array.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = key if isinstance(key, tuple) else (key,)
        keys = (*keys, *(slice(None),) * (len(self.shape) - len(keys)))
        inner = dict(zip(self.axes, keys[-3:], strict=True))
        part = np.asarray(self.array[(*keys[:-3], *(inner[axis] for axis in range(3)))])
        first = part.ndim - 3
        return part.transpose(*range(first), *(first + axis for axis in self.axes))


def order_axes(array: LazyArray, axes: IntTriple) -> LazyArray:
    """Returns the array with its last three axes in an order; the array itself if that is its own."""
    return array if axes == UNCHANGED else OrderedArray(array=array, axes=axes)
