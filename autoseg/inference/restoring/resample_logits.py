"""Resamples logits strip by strip, so that the whole array never exists at the finer resolution.

The layout is channels last: interpolation is then the same for consecutive values in memory, and so is the argmax,
which CPUs compute for 8 to 16 values at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from autoseg.geometry import IntTriple

CPU_STRIP_BYTES: Final = 2**22
GPU_STRIP_BYTES: Final = 2**28
"""Size of the resampled logits that exist at a time (at least one row). On a CPU they fit the cache; a GPU needs many
values at once (guess)."""
FLOAT_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strip:
    """A few neighbouring rows of the resampled logits.

    Attributes:
        z: Index of the new slice.
        rows: New rows in it.
        logits: Logits in single precision.
    """

    z: int
    rows: slice
    logits: Float32[Tensor, "row new_x class"]


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """The two neighbours of every new voxel along one axis, and the weight of the upper one."""

    lower: Tensor
    upper: Tensor
    share: Tensor
    is_identity: bool
    is_nearest: bool

    def resample(self, values: Tensor, axis: int) -> Tensor:
        """Computes all new voxels of an axis."""
        if self.is_identity:
            return values
        lower = values.index_select(axis, self.lower)
        if self.is_nearest:
            return lower
        shape = [-1 if index == axis else 1 for index in range(values.ndim)]
        return lower.lerp_(values.index_select(axis, self.upper), self.share.reshape(shape))

    def cut(self, values: Tensor, wanted: slice) -> tuple[Tensor, "Taps"]:
        """Returns the values that some new voxels of the first axis depend on, and the taps for them."""
        lower, upper, share = self.lower[wanted], self.upper[wanted], self.share[wanted]
        first, last = int(lower[0]), int(upper[-1]) + 1
        taps = Taps(lower - first, upper - first, share, is_identity=self.is_identity, is_nearest=self.is_nearest)
        return values[first:last], taps


def get_strip_bytes(logits: Sequence[Tensor]) -> int:
    """Returns the default strip size for the devices of the logits, one for all, so that strips have equal rows."""
    return CPU_STRIP_BYTES if all(part.device.type == "cpu" for part in logits) else GPU_STRIP_BYTES


def iterate_resampled_strips(
    logits: Float[Tensor, "class z y x"],
    shape_voxels: IntTriple,
    *,
    is_nearest: tuple[bool, bool, bool],
    strip_bytes: int | None = None,
) -> Iterator[Strip]:
    """Yields all strips in order of slices and rows.

    Voxel i of a new axis lies at (i + 0.5) * old / new - 0.5 of the old one, and border voxels are extended outwards:
    linear interpolation is that of `scipy.ndimage.zoom(order=1, grid_mode=True, mode="nearest")`. An axis whose
    extent does not change is copied.

    Args:
        logits: Logits on any device, in any precision; the strips are on the same device.
        shape_voxels: New shape.
        is_nearest: Per axis, whether it takes the nearest voxel instead of interpolating.
        strip_bytes: Upper limit for a strip of all classes and more than one row; None for the default of the device.
    """
    z, y, x = (
        find_taps(old, new, is_nearest=nearest, device=logits.device)
        for old, new, nearest in zip(logits.shape[1:], shape_voxels, is_nearest, strict=True)
    )
    limit = strip_bytes or get_strip_bytes([logits])
    step = max(1, limit // (FLOAT_BYTES * len(logits) * shape_voxels[2]))
    for index, plane in enumerate(_iterate_slices(logits, z)):
        for first in range(0, shape_voxels[1], step):
            rows = slice(first, min(first + step, shape_voxels[1]))
            source, taps = y.cut(plane, rows)
            resampled = x.resample(taps.resample(source, 0), 1)
            yield Strip(z=index, rows=rows, logits=resampled)


def _iterate_slices(logits: Tensor, taps: Taps) -> Iterator[Tensor]:
    """Yields every new slice (y, x, class); each old one is rearranged once, as neighbours share it."""
    kept: dict[int, Tensor] = {}
    neighbours = zip(taps.lower.tolist(), taps.upper.tolist(), taps.share.tolist(), strict=True)
    for lower, upper, share in neighbours:
        wanted = {lower} if share == 0 else {lower, upper}
        kept = {index: kept[index] if index in kept else rearrange_slice(logits, index) for index in wanted}
        yield kept[lower] if share == 0 else torch.lerp(kept[lower], kept[upper], share)


def rearrange_slice(logits: Float[Tensor, "class z y x"], index: int) -> Float32[Tensor, "y x class"]:
    """Returns a slice in single precision, channels last."""
    return logits[:, index].movedim(0, -1).to(torch.float32, memory_format=torch.contiguous_format)


def find_taps(old: int, new: int, *, is_nearest: bool, device: torch.device) -> Taps:
    """Computes the taps of an axis that changes its extent, see `iterate_resampled_strips`."""
    wanted = torch.arange(new, dtype=torch.float64)
    if is_nearest or old == new:
        nearest = ((wanted + 0.5) * old / new).floor().long().clamp(0, old - 1).to(device)
        share = torch.zeros(new, device=device)
        return Taps(nearest, nearest, share, is_identity=old == new, is_nearest=True)
    position = ((wanted + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
    lower = position.floor().long()
    upper = (lower + 1).clamp(max=old - 1)
    share = (position - lower).float()
    return Taps(lower.to(device), upper.to(device), share.to(device), is_identity=False, is_nearest=False)
