"""Resamples logits strip by strip, so that the whole array never exists at the finer resolution.

Classes come last here: every interpolation is then the same for a run of neighbouring numbers, and so is the choice of
the highest class, which processors do for 8 to 16 numbers at once.
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
"""Size of the resampled logits that exist at one time (at least one row). On a processor they stay in its cache; a GPU
is kept busy by many numbers at once (guess)."""
FLOAT_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strip:
    """A few neighbouring rows of the resampled logits.

    Attributes:
        z: Index of the new slice.
        rows: New rows in it.
        logits: In single precision.
    """

    z: int
    rows: slice
    logits: Float32[Tensor, "row new_x class"]


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """The two neighbours of every new voxel along one axis, and the share of the upper one."""

    lower: Tensor
    upper: Tensor
    share: Tensor
    is_identity: bool
    is_nearest: bool

    def resample(self, values: Tensor, axis: int) -> Tensor:
        """All new voxels of an axis."""
        if self.is_identity:
            return values
        lower = values.index_select(axis, self.lower)
        if self.is_nearest:
            return lower
        shape = [-1 if index == axis else 1 for index in range(values.ndim)]
        return lower.lerp_(values.index_select(axis, self.upper), self.share.reshape(shape))

    def cut(self, values: Tensor, wanted: slice) -> tuple[Tensor, "Taps"]:
        """What the wanted new voxels of the first axis are made of, and the taps that make them."""
        lower, upper, share = self.lower[wanted], self.upper[wanted], self.share[wanted]
        first, last = int(lower[0]), int(upper[-1]) + 1
        taps = Taps(lower - first, upper - first, share, is_identity=self.is_identity, is_nearest=self.is_nearest)
        return values[first:last], taps


def get_strip_bytes(logits: Sequence[Tensor]) -> int:
    """What suits the devices on which the logits lie; one size for all, so that their strips hold the same rows."""
    return CPU_STRIP_BYTES if all(part.device.type == "cpu" for part in logits) else GPU_STRIP_BYTES


def iterate_resampled_strips(
    logits: Float[Tensor, "class z y x"],
    shape_voxels: IntTriple,
    *,
    is_nearest: tuple[bool, bool, bool],
    strip_bytes: int | None = None,
) -> Iterator[Strip]:
    """Yields all strips in order of slices and rows.

    Voxel i of a new axis lies at (i + 0.5) * old / new - 0.5 of the old one, and the border voxels extend outwards:
    linear interpolation is that of `scipy.ndimage.zoom(order=1, grid_mode=True, mode="nearest")`. An axis whose
    extent does not change is copied.

    Args:
        logits: On any device, in any precision; the strips lie there too.
        shape_voxels: New extents.
        is_nearest: Per axis, whether it takes the nearest voxel instead of interpolating.
        strip_bytes: Upper limit for a strip of all classes and more than one row; None for what suits the device.
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
    """Every new slice (y, x, class); each old one is rearranged once, as neighbours share it."""
    kept: dict[int, Tensor] = {}
    neighbours = zip(taps.lower.tolist(), taps.upper.tolist(), taps.share.tolist(), strict=True)
    for lower, upper, share in neighbours:
        wanted = {lower} if share == 0 else {lower, upper}
        kept = {index: kept[index] if index in kept else rearrange_slice(logits, index) for index in wanted}
        yield kept[lower] if share == 0 else torch.lerp(kept[lower], kept[upper], share)


def rearrange_slice(logits: Float[Tensor, "class z y x"], index: int) -> Float32[Tensor, "y x class"]:
    """A slice in single precision, classes last."""
    return logits[:, index].movedim(0, -1).to(torch.float32, memory_format=torch.contiguous_format)


def find_taps(old: int, new: int, *, is_nearest: bool, device: torch.device) -> Taps:
    """Of an axis that changes from an old to a new extent, see `iterate_resampled_strips`."""
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
