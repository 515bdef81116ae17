"""Decodes resampled logits into labels, and interpolates only where labels meet.

Linear interpolation never leaves the range of its inputs. So a class that is the highest at all corners of a cell of
the coarse grid is the highest everywhere in it, and the same holds for a region that is above (or below) one half at
all of them: such cells are filled. In the other, mostly few cells, classes whose maximum is below the minimum of
another class are left out.

The result is exact: a class that is ahead by less than the rounding error counts as undecided.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Float32, Int16, Int64, Integer
from torch import Tensor

from autoseg.geometry import IntTriple
from autoseg.inference.restoring.decoding import compose_regions, compute_argmax
from autoseg.inference.restoring.resample_logits import FLOAT_BYTES, find_taps, rearrange_slice
from autoseg.labels import LabelScheme

CPU_CHUNK_BYTES: Final = 2**22
"""Size of the values of undecided cells that are processed at a time: they fit the cache of a CPU."""
GPU_CHUNK_BYTES: Final = 2**26
"""The same on a GPU, where every chunk has a launch overhead (a guess)."""
ROUNDING: Final = 1e-5
"""Relative margin by which a class must be lower: far above the rounding error of single precision."""
UNDECIDED: Final = -1
MOST_BITS: Final = 62
"""With more regions than this, all voxels are interpolated."""


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """The cells along one axis: all new voxels of a cell lie between the same old ones.

    Attributes:
        corners: Old voxels of every cell; a single one where nothing is interpolated.
        cell_of: Cell of every new voxel.
        voxels: New voxels of every cell, padded by `extent`, which is out of range.
        shares: Weight of the second corner in each new voxel.
        extent: Number of new voxels.
    """

    corners: Int64[Tensor, "corner cell"]
    cell_of: Int64[Tensor, " new"]
    voxels: Int64[Tensor, "slot cell"]
    shares: Float32[Tensor, "slot cell"]
    extent: int


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """A slice of the logits.

    Attributes:
        values: Logits in single precision.
        codes: The highest class, or one bit for each region above one half; `UNDECIDED` where rounding could matter.
    """

    values: Float32[Tensor, "y x class"]
    codes: Integer[Tensor, "y x"]


def iterate_label_slabs(
    logits: Float[Tensor, "class z y x"],
    shape_voxels: IntTriple,
    labels: LabelScheme,
    *,
    is_nearest: tuple[bool, bool, bool],
    chunk_bytes: int | None = None,
) -> Iterator[tuple[slice, Int16[Tensor, "slab_z new_y new_x"]]]:
    """Yields internal labels slab by slab, equal to `decode_labels` of `iterate_resampled_strips`.

    Args:
        logits: Logits on any device, in any precision; the slabs are on the same device.
        shape_voxels: New shape.
        labels: Label scheme.
        is_nearest: Per axis, whether it takes the nearest voxel instead of interpolating.
        chunk_bytes: Size of the undecided cells that are processed at a time (at least one cell); None for the
            default of the device.

    Yields:
        The new slices in ascending order, and their labels.
    """
    limit = chunk_bytes or (CPU_CHUNK_BYTES if logits.device.type == "cpu" else GPU_CHUNK_BYTES)
    z, y, x = (
        _find_axis(old, new, is_nearest=nearest, device=logits.device)
        for old, new, nearest in zip(logits.shape[1:], shape_voxels, is_nearest, strict=True)
    )
    kept: dict[int, _Plane] = {}
    first = 0
    for corners, voxels, shares in zip(z.corners.T.tolist(), z.voxels.T.tolist(), z.shares.T, strict=True):
        count = sum(voxel < z.extent for voxel in voxels)
        kept = {index: kept[index] if index in kept else _make_plane(logits, index, labels) for index in corners}
        slab = _Slab([kept[index] for index in corners], shares[:count], y, x, labels)
        yield slice(first, first + count), slab.find_labels(limit)
        first += count


@dataclass(frozen=True, slots=True, eq=False)
class _Slab:
    """New slices between the same one or two old slices.

    Attributes:
        planes: The old slices.
        shares: Weight of the second old slice in every new slice.
        y: Cells along the columns.
        x: Cells along the rows.
        labels: Label scheme.
    """

    planes: list[_Plane]
    shares: Float32[Tensor, " slab_z"]
    y: _Axis
    x: _Axis
    labels: LabelScheme

    def find_labels(self, chunk_bytes: int) -> Int16[Tensor, "slab_z new_y new_x"]:
        """Computes the labels of all new voxels."""
        codes = self._combine_codes()
        filled = _decode(codes, self.labels).index_select(1, self.x.cell_of).index_select(0, self.y.cell_of)
        size = filled.numel()
        found = filled.new_empty((len(self.shares), size + 1))
        found[:, :size] = filled.flatten()
        numbers = max(self.planes[0].values.shape[-1], len(self.shares) * len(self.y.voxels) * len(self.x.voxels))
        step = max(1, chunk_bytes // (FLOAT_BYTES * numbers))
        undecided = _Cells(self, *(codes == UNDECIDED).nonzero(as_tuple=True))
        for first in range(0, len(undecided.y), step):
            cells, decided = undecided[first : first + step].decide()
            found.scatter_(1, cells.locate().expand(len(found), -1), decided.flatten(1))
        return found[:, :size].reshape(len(found), *filled.shape)

    def _combine_codes(self) -> Integer[Tensor, "cell_y cell_x"]:
        codes = _agree([plane.codes for plane in self.planes])
        codes = _agree([codes.index_select(0, corner) for corner in self.y.corners])
        return _agree([codes.index_select(1, corner) for corner in self.x.corners])


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Undecided cells of a slab. They are the last axis of arrays, along which operations are vectorized."""

    slab: _Slab
    y: Int64[Tensor, " cell"]
    x: Int64[Tensor, " cell"]

    def __getitem__(self, chosen: Int64[Tensor, " chosen"] | slice) -> "_Cells":
        return _Cells(self.slab, self.y[chosen], self.x[chosen])

    def locate(self) -> Int64[Tensor, " place"]:
        """Computes flat indices of the new voxels, (slot_y, slot_x, cell); out of range for padding."""
        y, x = self.slab.y, self.slab.x
        rows, columns = y.voxels[:, self.y][:, None], x.voxels[:, self.x][None]
        places = rows * x.extent + columns
        return places.masked_fill_((rows == y.extent) | (columns == x.extent), y.extent * x.extent).flatten()

    def decide(self) -> tuple["_Cells", Int16[Tensor, "slab_z slot_y slot_x cell"]]:
        """Returns the reordered cells, and the labels of their new voxels."""
        return (self, self._apply_regions()) if self.slab.labels.has_regions else self._find_highest()

    def _apply_regions(self) -> Int16[Tensor, "slab_z slot_y slot_x cell"]:
        channels = range(self.slab.labels.output_channel_count)
        inside = (self._interpolate(torch.full_like(self.y, channel)) > 0 for channel in channels)
        return compose_regions(inside, self.slab.labels)

    def _find_highest(self) -> tuple["_Cells", Int16[Tensor, "slab_z slot_y slot_x cell"]]:
        """Compares candidate by candidate; cells are sorted by falling number of candidates, so that few remain."""
        cells, classes = self._find_candidates()
        counts = cells.bincount(minlength=len(self.y))
        firsts = counts.cumsum(0) - counts
        counts, order = counts.sort(descending=True)
        firsts, ordered = firsts[order], self[order]
        highest = ordered._interpolate(classes[firsts]).contiguous()
        chosen = torch.zeros_like(highest, dtype=torch.int16)
        remaining = (counts[:, None] > torch.arange(1, int(counts[0]), device=counts.device)).sum(dim=0).tolist()
        for index, count in enumerate(remaining, start=1):
            values = ordered[:count]._interpolate(classes[firsts[:count] + index])
            reached, last = highest[..., :count], chosen[..., :count]
            # Candidate numbers grow, so that a maximum suffices, which is faster than a selection.
            torch.maximum(last, (values > reached).to(torch.int16).mul_(index), out=last)
            torch.maximum(values, reached, out=reached)
        return ordered, classes.to(torch.int16).take(chosen.long().add_(firsts))

    def _find_candidates(self) -> tuple[Int64[Tensor, " candidate"], Int64[Tensor, " candidate"]]:
        """Finds cell and class of all classes that may be the highest somewhere in a cell, ascending."""
        lowest: Tensor | None = None
        highest: Tensor | None = None
        pixels = self._find_pixels().flatten(0, 1)
        for plane in self.slab.planes:
            flat = plane.values.flatten(0, 1)
            for corner in pixels:
                values = flat.index_select(0, corner)
                lowest = values if lowest is None else torch.minimum(lowest, values)
                highest = values if highest is None else torch.maximum(highest, values)
        assert lowest is not None
        assert highest is not None
        reached = lowest.amax(dim=-1, keepdim=True)
        candidates = (highest >= _lower_by_rounding(reached)).nonzero(as_tuple=True)
        return candidates[0], candidates[1]

    def _find_pixels(self) -> Int64[Tensor, "corner_y corner_x cell"]:
        """Computes flat indices of the corners in a plane."""
        width = self.slab.planes[0].values.shape[1]
        rows, columns = self.slab.y.corners[:, self.y], self.slab.x.corners[:, self.x]
        return rows[:, None] * width + columns

    def _interpolate(self, classes: Int64[Tensor, " cell"]) -> Float32[Tensor, "slab_z slot_y slot_x cell"]:
        """Interpolates one class of every cell."""
        slab = self.slab
        places = self._find_pixels() * slab.planes[0].values.shape[-1] + classes
        values = torch.stack([plane.values.take(places) for plane in slab.planes])
        values = _blend(values, slab.shares[:, None, None, None], axis=0)
        values = _blend(values, slab.y.shares[:, self.y][:, None], axis=1)
        return _blend(values, slab.x.shares[:, self.x], axis=2)


def _blend(values: Tensor, shares: Tensor, axis: int) -> Tensor:
    """Interpolates between one or two corners along an axis."""
    if values.shape[axis] == 2:
        lower, upper = values.unbind(axis)
        return lower.unsqueeze(axis).lerp(upper.unsqueeze(axis), shares)
    return values.expand(*values.shape[:axis], len(shares), *values.shape[axis + 1 :])


def _agree(codes: Sequence[Integer[Tensor, "*place"]]) -> Integer[Tensor, "*place"]:
    """Returns the common code, or `UNDECIDED`."""
    first, *others = codes
    for other in others:
        first = first.where(first == other, UNDECIDED)
    return first


def _make_plane(logits: Tensor, index: int, labels: LabelScheme) -> _Plane:
    values = rearrange_slice(logits, index)
    if not labels.has_regions:
        highest = compute_argmax(values)
        reached = values.gather(-1, highest.long()[..., None])
        is_clear = (values >= _lower_by_rounding(reached)).sum(dim=-1) == 1
        return _Plane(values, highest.where(is_clear, UNDECIDED))
    if values.shape[-1] > MOST_BITS:
        return _Plane(values, torch.full(values.shape[:-1], UNDECIDED, dtype=torch.int64, device=values.device))
    bits = 2 ** torch.arange(values.shape[-1], device=values.device)
    return _Plane(values, ((values > 0) * bits).sum(dim=-1))


def _decode(codes: Integer[Tensor, "*place"], labels: LabelScheme) -> Int16[Tensor, "*place"]:
    """Converts codes to labels; undecided ones are arbitrary."""
    if not labels.has_regions:
        return codes.to(torch.int16)
    return compose_regions(((codes >> bit & 1).bool() for bit in range(labels.output_channel_count)), labels)


def _lower_by_rounding(values: Tensor) -> Tensor:
    return values - ROUNDING * (1 + values.abs())


def _find_axis(old: int, new: int, *, is_nearest: bool, device: torch.device) -> _Axis:
    taps = find_taps(old, new, is_nearest=is_nearest, device=device)
    cells, cell_of, counts = torch.unique_consecutive(taps.lower, return_inverse=True, return_counts=True)
    firsts = counts.cumsum(0) - counts
    slots = torch.arange(int(counts.max()), device=device)[:, None]
    voxels = torch.where(slots < counts, firsts + slots, new)
    corners = cells[None] if taps.is_nearest else torch.stack([cells, taps.upper[firsts]])
    return _Axis(corners, cell_of, voxels, taps.share[voxels.clamp(max=new - 1)], new)
