"""Joins masks of single structures into one label map: overlaps, nesting, and label values.

The masks of a case are first numbered by **combination**: voxels of one structure alone have that structure's value,
every set of structures that share voxels gets a number above them. So nothing is lost before all cases are known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import UInt16
from numpy.typing import NDArray

LARGEST_STRAY_FRACTION: Final = 0.01  # guess: of the smaller structure; boundaries that were drawn apart, no nesting

Combination = tuple[int, ...]
"""Indices of structures, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CombinedMasks:
    """All masks of a case.

    Attributes:
        numbers: 0 for background, 1 + i for structure i alone, more for the combinations in `mixed`, in this order.
        voxels: Number of voxels of each combination that occurs.
    """

    numbers: UInt16[np.ndarray, "z y x"]
    mixed: tuple[Combination, ...]
    voxels: Mapping[Combination, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two structures that share voxels without being nested.

    Attributes:
        keeper: Index of the structure that keeps the voxels: the one that is smaller in all cases together.
        loser: Index of the other.
        cases: Number of shared voxels, by the name of the case.
        largest_fraction: Shared voxels divided by those of the smaller structure, in the worst case.
    """

    keeper: int
    loser: int
    cases: Mapping[str, int]
    largest_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Nesting:
    """Nesting of the structures of a dataset.

    Attributes:
        parents: The structures that enclose each structure in every case, ascending.
        equal: Pairs of structures with the same voxels in every case.
        overlaps: Overlaps of pairs that are not nested.
        order: Structures from the outermost to the innermost; where several overlap, the last one is written.
    """

    parents: tuple[tuple[int, ...], ...]
    equal: tuple[tuple[int, int], ...]
    overlaps: tuple[Overlap, ...]
    order: tuple[int, ...]

    @property
    def has_nested(self) -> bool:
        """Whether any structure lies in another, so that labels become regions."""
        return any(self.parents)


def combine_masks(masks: Sequence[tuple[int, NDArray[np.bool_]]], *, structure_count: int) -> CombinedMasks:
    """Numbers the voxels of a case; memory grows with the foreground, not with the number of structures.

    Args:
        masks: Index of the structure and its mask, ascending; structures may be missing.
        structure_count: Number of structures in the whole dataset.
    """
    shape = masks[0][1].shape
    numbers = np.zeros(masks[0][1].size, np.uint16)
    members = np.zeros(masks[0][1].size, np.uint8)
    places = [(index, np.flatnonzero(mask)) for index, mask in masks]
    for index, where in places:
        numbers[where] = index + 1
        members[where] += np.uint8(members[where] < 255)
    shared = np.flatnonzero(members > 1)
    mixed, counts = _number_shared(shared, places, numbers, structure_count)
    alone = np.bincount(numbers, minlength=structure_count + 1)
    voxels = {(index,): int(alone[index + 1]) for index, _ in places if alone[index + 1]}
    return CombinedMasks(
        numbers=numbers.reshape(shape), mixed=mixed, voxels=voxels | dict(zip(mixed, counts, strict=True))
    )


def _number_shared(
    shared: NDArray[np.intp],
    places: Sequence[tuple[int, NDArray[np.intp]]],
    numbers: NDArray[np.uint16],
    structure_count: int,
) -> tuple[tuple[Combination, ...], list[int]]:
    if not shared.size:
        return (), []
    is_member = np.zeros((shared.size, len(places)), bool)
    for column, (_, where) in enumerate(places):
        is_member[np.searchsorted(shared, np.intersect1d(shared, where, assume_unique=True)), column] = True
    rows, inverse, counts = np.unique(np.packbits(is_member, axis=1), axis=0, return_inverse=True, return_counts=True)
    numbers[shared] = structure_count + 1 + inverse.reshape(-1)
    flags = np.unpackbits(rows, axis=1, count=len(places)).astype(bool)
    mixed = tuple(tuple(places[column][0] for column in np.flatnonzero(row).tolist()) for row in flags)
    return mixed, counts.tolist()


def find_nesting(cases: Mapping[str, Mapping[Combination, int]], *, structure_count: int) -> Nesting:
    """Finds the nesting of structures from the voxels of every combination in all cases."""
    sizes = {name: _count_structures(voxels, structure_count) for name, voxels in cases.items()}
    shared = {name: dict(_count_pairs(voxels)) for name, voxels in cases.items()}
    totals = np.sum(list(sizes.values()), axis=0)
    parents: list[list[int]] = [[] for _ in range(structure_count)]
    equal = []
    for a, b in sorted({pair for pairs in shared.values() for pair in pairs}):
        inner, outer = (a, b) if totals[a] <= totals[b] else (b, a)
        if all(shared[name].get((a, b), 0) == sizes[name][inner] for name in cases):
            parents[inner].append(outer)
            if totals[a] == totals[b]:
                equal.append((a, b))
    order = sorted(range(structure_count), key=lambda index: (-int(totals[index]), index))
    nesting = Nesting(
        parents=tuple(tuple(found) for found in parents), equal=tuple(equal), overlaps=(), order=tuple(order)
    )
    return replace(nesting, overlaps=_find_overlaps(cases, sizes, nesting))


def _find_overlaps(
    cases: Mapping[str, Mapping[Combination, int]], sizes: Mapping[str, Sequence[int]], nesting: Nesting
) -> tuple[Overlap, ...]:
    """Finds the voxels that one structure loses to another, because a voxel has one value."""
    lost: dict[tuple[int, int], dict[str, int]] = {}
    for name, voxels in cases.items():
        for members, count in voxels.items():
            keeper = assign_values([members], nesting)[0] - 1
            for loser in set(members) - {keeper, *nesting.parents[keeper]}:
                counts = lost.setdefault((keeper, loser), {})
                counts[name] = counts.get(name, 0) + count
    return tuple(
        Overlap(
            keeper=keeper,
            loser=loser,
            cases=counts,
            largest_fraction=max(
                count / min(sizes[name][keeper], sizes[name][loser]) for name, count in counts.items()
            ),
        )
        for (keeper, loser), counts in sorted(lost.items())
    )


def assign_values(mixed: Sequence[Combination], nesting: Nesting) -> list[int]:
    """Returns the value that is written for each combination: that of the last structure in `Nesting.order`."""
    rank = {structure: place for place, structure in enumerate(nesting.order)}
    return [1 + max(members, key=rank.__getitem__) for members in mixed]


def list_region_values(nesting: Nesting) -> dict[int, tuple[int, ...]]:
    """Returns the values of every structure and of the structures nested in it, outermost structure first."""
    return {
        structure: (structure + 1, *(1 + inner for inner, outer in enumerate(nesting.parents) if structure in outer))
        for structure in nesting.order
    }


def _count_structures(voxels: Mapping[Combination, int], structure_count: int) -> list[int]:
    sizes = [0] * structure_count
    for members, count in voxels.items():
        for member in members:
            sizes[member] += count
    return sizes


def _count_pairs(voxels: Mapping[Combination, int]) -> Iterator[tuple[tuple[int, int], int]]:
    pairs: dict[tuple[int, int], int] = {}
    for members, count in voxels.items():
        for place, first in enumerate(members):
            for second in members[place + 1 :]:
                pairs[first, second] = pairs.get((first, second), 0) + count
    yield from pairs.items()
