"""Images as rows: the channels of all samples of a batch, each changed by its own parameters."""

from collections.abc import Sequence
from functools import reduce
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from autoseg.training.augmentation.tensors.transfer import copy_to_device

# As in batchgenerators: they keep constant channels from a division by zero.
RANGE_EPSILON: Final = 1e-7
SPREAD_EPSILON: Final = 1e-8


def view_rows(image: Float32[Tensor, "batch channel *space"]) -> Float32[Tensor, " row *space"]:
    """Views the channels of all samples one after the other, in the same memory; the image must be contiguous."""
    return image.view(-1, *image.shape[2:])


def to_column(values: np.ndarray, rows: Tensor) -> Tensor:
    """Returns one value for each row (floats in single precision), to be broadcast over it."""
    values = values.astype(np.float32) if values.dtype.kind == "f" else values
    return copy_to_device(values, rows.device).view(-1, *(1,) * (rows.ndim - 1))


def expand_column(values: Tensor, rows: Tensor) -> Tensor:
    """Views one value for each row so that it is broadcast over it."""
    return values.view(-1, *(1,) * (rows.ndim - 1))


def combine_axes(parts: Sequence[Int64[Tensor, "batch _"]]) -> Int64[Tensor, " batch *space"]:
    """Adds up parts of flat indices, one for each axis."""
    last = len(parts) - 1
    columns = [
        part.view(len(part), *(1,) * axis, part.shape[1], *(1,) * (last - axis)) for axis, part in enumerate(parts)
    ]
    combined: Int64[Tensor, " batch *space"] = reduce(torch.add, columns)
    return combined


def measure_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Measures mean and standard deviation (of the population) of each row."""
    spread, mean = torch.std_mean(rows, dim=tuple(range(1, rows.ndim)), correction=0, keepdim=True)
    return mean, spread


def find_limits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the lowest and the highest value of each row, which is contiguous."""
    lowest, highest = rows.view(len(rows), -1).aminmax(dim=1)
    return expand_column(lowest, rows), expand_column(highest, rows)
