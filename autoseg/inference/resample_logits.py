"""Bringing logits to another shape piece by piece, so that the whole array never exists at the finer resolution."""

from collections.abc import Iterator
from typing import Final

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from autoseg.geometry import IntTriple

SLAB_BYTES: Final = 2**24
"""Size of the resampled logits that exist at one time (at least one slice). Measured with 3, 10 and 60 classes on two
cores, from 4 to 256 MiB: 16 MiB is among the fastest everywhere, 256 MiB takes twice as long with 60 classes."""
FLOAT_BYTES: Final = 4


def iterate_resampled_slabs(
    logits: Float32[Tensor, "class z y x"],
    shape_voxels: IntTriple,
    *,
    is_nearest: tuple[bool, bool, bool],
    slab_bytes: int = SLAB_BYTES,
) -> Iterator[tuple[slice, Tensor]]:
    """Yields ranges of the new first axis, in order, with the logits there (class, range, y, x).

    Voxel i of a new axis lies at (i + 0.5) * old / new - 0.5 of the old one, and the border voxels extend outwards:
    linear interpolation is that of `scipy.ndimage.zoom(order=1, grid_mode=True, mode="nearest")`. An axis whose
    extent does not change is copied. The last bits may depend on the size of a slab, as torch's do.

    Args:
        logits: On any device; the slabs lie there too.
        shape_voxels: New extents.
        is_nearest: Per axis, whether it takes the nearest voxel instead of interpolating.
        slab_bytes: Upper limit for a slab of more than one slice.
    """
    classes, _, *plane = logits.shape
    slice_bytes = FLOAT_BYTES * classes * max(shape_voxels[1] * shape_voxels[2], plane[0] * plane[1])
    step = max(1, slab_bytes // slice_bytes)
    for first in range(0, shape_voxels[0], step):
        rows = slice(first, min(first + step, shape_voxels[0]))
        slab = _resample_first_axis(logits, rows, shape_voxels[0], is_nearest=is_nearest[0])
        yield rows, _resample_plane(slab, shape_voxels[1:], is_nearest[1:])


def _resample_first_axis(logits: Tensor, rows: slice, extent: int, *, is_nearest: bool) -> Tensor:
    old = logits.shape[1]
    if extent == old:
        return logits[:, rows]
    wanted = torch.arange(rows.start, rows.stop, dtype=torch.float64)
    if is_nearest:
        return logits[:, _find_nearest(wanted, old, extent).to(logits.device)]
    position = ((wanted + 0.5) * (old / extent) - 0.5).clamp(0, old - 1)
    lower = position.floor().long()
    upper = (lower + 1).clamp(max=old - 1)
    weight = (position - lower).float()[:, None, None].to(logits.device)
    return torch.lerp(logits[:, lower.to(logits.device)], logits[:, upper.to(logits.device)], weight)


def _resample_plane(slab: Tensor, extents: tuple[int, ...], is_nearest: tuple[bool, ...]) -> Tensor:
    interpolated = [slab.shape[2 + axis] if is_nearest[axis] else extents[axis] for axis in range(2)]
    for axis, nearest in enumerate(is_nearest):
        old, extent = slab.shape[2 + axis], extents[axis]
        if nearest and old != extent:
            source = _find_nearest(torch.arange(extent, dtype=torch.float64), old, extent)
            slab = slab.index_select(2 + axis, source.to(slab.device))
            interpolated[axis] = extent
    if list(slab.shape[2:]) == interpolated:
        return slab
    return functional.interpolate(slab, size=interpolated, mode="bilinear", align_corners=False)


def _find_nearest(wanted: Tensor, old: int, new: int) -> Tensor:
    return ((wanted + 0.5) * old / new).floor().long().clamp(0, old - 1)
