"""Keeps small objects in resampled label maps: a component of a class that would vanish gets one voxel.

Interpolation gives a voxel to the label with the largest share in it, so that an object smaller than half a voxel
leaves nothing. Here it gets the voxel that holds most of it. No other voxel differs from the interpolated label map.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Bool, Int16, Int64

from autoseg.geometry import IntTriple
from autoseg.preprocessing.interpolation import compute_linear_taps, compute_nearest_indices

STEPS: Final = (-1, 0, 1)
OFFSETS: Final[tuple[IntTriple, ...]] = tuple(
    sorted(((z, y, x) for z in STEPS for y in STEPS for x in STEPS if z or y or x), key=lambda o: sum(map(abs, o)))
)
"""The 26 neighbours of a voxel, those through faces first: most voxels at a surface meet a kept voxel there."""

MOST_PASSES: Final = 3  # an object that another one took its last voxel from is placed in the next pass

Flat = Int64[np.ndarray, " voxel"]


def keep_small_objects(
    label_map: Int16[np.ndarray, "z y x"],
    resampled: Int16[np.ndarray, "new_z new_y new_x"],
    *,
    classes: Sequence[tuple[int, ...]],
    nearest_axes: frozenset[int] = frozenset(),
) -> int:
    """Gives every connected component of a class that vanished one voxel of the resampled label map, in place.

    It is the voxel that holds most of the component or, if that is all that is left of another object, the nearest one
    around it that is not. Classes that contain the background are left alone, and so is the ignore label, which is no
    class. Components are connected through faces, edges and corners.

    Args:
        label_map: Labels before resampling.
        resampled: The same labels afterwards.
        classes: Labels of every class.
        nearest_axes: Axes that were resampled by nearest neighbour.

    Returns:
        Number of voxels that were changed.
    """
    if label_map.shape == resampled.shape:
        return 0
    maps = _Maps(label_map=label_map, resampled=resampled, axes=_build_axes(label_map, resampled, nearest_axes))
    changed = maps.find_changed()
    highest = max(max(members) for members in classes)
    for _ in range(MOST_PASSES):
        placed = sum(maps.place_lost(changed, table) for table in _build_tables(classes, highest))
        if not placed or not maps.overwritten:
            break
        changed = np.union1d(changed, maps.find_overwritten())
    return len(maps.placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """One axis before and after resampling.

    Attributes:
        targets: The nearest new index of every old one.
        first_sources: The first old index from which every new one is interpolated.
        last_sources: The last such index.
        scale: New extent / old extent.
    """

    targets: Int64[np.ndarray, " old"]
    first_sources: Int64[np.ndarray, " new"]
    last_sources: Int64[np.ndarray, " new"]
    scale: float


@dataclass(slots=True, kw_only=True, eq=False)
class _Maps:
    """A label map before and after resampling.

    Attributes:
        placed: Flat indices of the new voxels that objects were given.
        overwritten: Those of them that belonged to another label.
    """

    label_map: Int16[np.ndarray, "z y x"]
    resampled: Int16[np.ndarray, "new_z new_y new_x"]
    axes: tuple[_Axis, _Axis, _Axis]
    placed: set[int] = field(default_factory=set)
    overwritten: list[int] = field(default_factory=list)

    def find_changed(self) -> Flat:
        """Finds foreground voxels whose nearest new voxel has another label, as ascending flat indices."""
        z_axis, y_axis, x_axis = self.axes
        plane_voxels = self.label_map.shape[1] * self.label_map.shape[2]
        found = [np.empty(0, np.int64)]
        for z, plane in enumerate(self.label_map):
            is_changed = plane > 0
            if is_changed.any():
                back = self.resampled[z_axis.targets[z]].take(y_axis.targets, axis=0).take(x_axis.targets, axis=1)
                is_changed &= plane != back
                found.append(np.flatnonzero(is_changed) + z * plane_voxels)
        return np.concatenate(found)

    def find_overwritten(self) -> Flat:
        """Finds the voxels whose nearest new voxel was overwritten since the last call."""
        found = []
        for target in self.overwritten:
            places = np.unravel_index(target, self.resampled.shape)
            sources = (np.flatnonzero(axis.targets == place) for axis, place in zip(self.axes, places, strict=True))
            found.append(np.ravel_multi_index(np.ix_(*sources), self.label_map.shape).reshape(-1))
        self.overwritten.clear()
        return np.concatenate(found)

    def place_lost(self, changed: Flat, table: Int16[np.ndarray, " label"]) -> int:
        """Gives each lost component of the classes of a table a voxel; returns the number of changes."""
        return sum(self._place(members, table) for members in self._list_lost(changed, table))

    def _list_lost(self, changed: Flat, table: Int16[np.ndarray, " label"]) -> Iterator[Int64[np.ndarray, " member"]]:
        """Lists the voxels of each lost component, the largest first."""
        voxels = self._drop_neighbours_of_kept(changed, table)
        if not voxels.size:
            return
        components, is_lost = self._connect(voxels, table)
        is_lost[components[self._find_interpolated(voxels, table)]] = False
        order = np.argsort(components, kind="stable")
        groups = np.split(voxels[order], np.flatnonzero(np.diff(components[order])) + 1)
        lost = [group for group, keep in zip(groups, is_lost, strict=True) if keep]
        yield from sorted(lost, key=len, reverse=True)

    def _drop_neighbours_of_kept(
        self, voxels: Flat, table: Int16[np.ndarray, " label"]
    ) -> Int64[np.ndarray, " remaining"]:
        classes = table[self.label_map.reshape(-1)[voxels]]
        wanted = (classes > 0) & ~self._is_kept(voxels, classes, table)
        voxels, classes = voxels[wanted], classes[wanted]
        for offset in OFFSETS:
            near, is_same = self._find_neighbours(voxels, classes, offset, table)
            is_same[is_same] = self._is_kept(near[is_same], classes[is_same], table)
            voxels, classes = voxels[~is_same], classes[~is_same]
        return voxels

    def _connect(self, voxels: Flat, table: Int16[np.ndarray, " label"]) -> tuple[Flat, Bool[np.ndarray, " component"]]:
        """Numbers the components of voxels; those that touch another voxel of their class are parts of a kept one."""
        from scipy import sparse  # imported here because it takes 0.2 s; workers have it

        classes = table[self.label_map.reshape(-1)[voxels]]
        touches, pairs = np.zeros(voxels.size, dtype=bool), []
        for offset in OFFSETS:
            near, is_same = self._find_neighbours(voxels, classes, offset, table)
            places = np.minimum(np.searchsorted(voxels, near), voxels.size - 1)
            is_listed = is_same & (voxels[places] == near)
            touches |= is_same & ~is_listed
            pairs.append(np.stack([np.flatnonzero(is_listed), places[is_listed]]))
        first, second = np.concatenate(pairs, axis=1)
        graph = sparse.coo_array((np.ones(first.size, dtype=bool), (first, second)), shape=(voxels.size,) * 2)
        count, components = sparse.csgraph.connected_components(graph, directed=False)
        is_lost = np.ones(count, dtype=bool)
        is_lost[components[touches]] = False
        return components.astype(np.int64), is_lost

    def _find_interpolated(self, voxels: Flat, table: Int16[np.ndarray, " label"]) -> Bool[np.ndarray, " voxel"]:
        """Finds voxels from which a new voxel of their class is interpolated, though it is not their nearest one."""
        classes = table[self.label_map.reshape(-1)[voxels]]
        places = np.unravel_index(voxels, self.label_map.shape)
        found = np.zeros(voxels.size, dtype=bool)
        for offset in OFFSETS:
            target, is_tap = [], np.ones(voxels.size, dtype=bool)
            for axis, place, step in zip(self.axes, places, offset, strict=True):
                index = axis.targets[place] + step
                is_tap &= (index >= 0) & (index < axis.first_sources.size)
                index = np.clip(index, 0, axis.first_sources.size - 1)
                is_tap &= (axis.first_sources[index] == place) | (axis.last_sources[index] == place)
                target.append(index)
            found |= is_tap & (table[self.resampled[tuple(target)]] == classes)
        return found

    def _is_kept(
        self, voxels: Flat, classes: Int16[np.ndarray, " voxel"], table: Int16[np.ndarray, " label"]
    ) -> Bool[np.ndarray, " voxel"]:
        kept: Bool[np.ndarray, " voxel"] = table[self.resampled.reshape(-1)[self._find_targets(voxels)]] == classes
        return kept

    def _find_targets(self, voxels: Flat) -> Flat:
        places = np.unravel_index(voxels, self.label_map.shape)
        z, y, x = (axis.targets[place] for axis, place in zip(self.axes, places, strict=True))
        flat: Flat = (z * self.resampled.shape[1] + y) * self.resampled.shape[2] + x
        return flat

    def _find_neighbours(
        self, voxels: Flat, classes: Int16[np.ndarray, " voxel"], offset: IntTriple, table: Int16[np.ndarray, " label"]
    ) -> tuple[Flat, Bool[np.ndarray, " voxel"]]:
        """Returns the neighbours in one direction, and whether they exist and have the same class."""
        near, exists = _shift(voxels, offset, self.label_map.shape)
        return near, exists & (table[self.label_map.reshape(-1)[near]] == classes)

    def _place(self, members: Flat, table: Int16[np.ndarray, " label"]) -> int:
        flat = self.resampled.reshape(-1)
        sources = self.label_map.reshape(-1)
        wanted = table[sources[members[0]]]
        own, counts = np.unique(self._find_targets(members), return_counts=True)
        if (table[flat[own]] == wanted).any():
            return 0  # an object beside it was given the same voxel
        for target in self._list_places(own[np.argsort(-counts, kind="stable")], members):
            if self._is_free(target):
                if flat[target] > 0:
                    self.overwritten.append(target)
                flat[target] = np.bincount(sources[members]).argmax()
                self.placed.add(target)
                return 1
        return 0

    def _list_places(self, own: Int64[np.ndarray, " target"], members: Flat) -> Iterator[int]:
        """Lists the new voxels that hold the object, then those around the first of them, the nearest first."""
        yield from own.tolist()
        places = np.unravel_index(members, self.label_map.shape)
        centre = [float(((p + 0.5) * axis.scale - 0.5).mean()) for p, axis in zip(places, self.axes, strict=True)]
        around = [_shift(own[:1], offset, self.resampled.shape) for offset in OFFSETS]
        near = np.array([int(voxel[0]) for voxel, exists in around if exists[0]], np.int64)
        steps = (np.array(np.unravel_index(near, self.resampled.shape)).T - centre) / [axis.scale for axis in self.axes]
        yield from near[np.argsort((steps**2).sum(axis=1), kind="stable")].tolist()

    def _is_free(self, target: int) -> bool:
        """Returns whether a new voxel can be given away: it is background, or not the last one of its object."""
        if target in self.placed:
            return False
        place = np.unravel_index(target, self.resampled.shape)
        label = self.resampled[place]
        if label <= 0:
            return True
        around = tuple(slice(max(index - 1, 0), index + 2) for index in place)
        return bool(np.count_nonzero(self.resampled[around] == label) > 1)


def _shift(voxels: Flat, offset: IntTriple, shape: tuple[int, ...]) -> tuple[Flat, Bool[np.ndarray, " voxel"]]:
    """Returns the flat indices of neighbours, and whether they exist; those that do not are the voxels themselves."""
    exists = np.ones(voxels.size, dtype=bool)
    step = 0
    for place, move, extent in zip(np.unravel_index(voxels, shape), offset, shape, strict=True):
        step = step * extent + move
        if move:
            exists &= (place > 0) if move < 0 else (place < extent - 1)
    return np.where(exists, voxels + step, voxels), exists


def _build_axes(
    label_map: Int16[np.ndarray, "z y x"],
    resampled: Int16[np.ndarray, "new_z new_y new_x"],
    nearest_axes: frozenset[int],
) -> tuple[_Axis, _Axis, _Axis]:
    z, y, x = (
        _build_axis(old, new, is_nearest=axis in nearest_axes)
        for axis, (old, new) in enumerate(zip(label_map.shape, resampled.shape, strict=True))
    )
    return z, y, x


def _build_axis(old: int, new: int, *, is_nearest: bool) -> _Axis:
    taps, nearest = compute_linear_taps(old, new), compute_nearest_indices(old, new)
    return _Axis(
        targets=compute_nearest_indices(new, old),
        first_sources=nearest if is_nearest else taps.lower,
        last_sources=nearest if is_nearest else taps.upper,
        scale=new / old,
    )


def _build_tables(classes: Sequence[tuple[int, ...]], highest: int) -> list[Int16[np.ndarray, " label"]]:
    """Builds tables from labels to the numbers of their classes, 0 for none; classes that overlap have one each.

    Small classes come first: a voxel of an inner region is one of the outer regions as well. The label -1 is the last
    entry.
    """
    tables: list[Int16[np.ndarray, " label"]] = []
    is_plain = all(len(members) == 1 for members in classes)
    for number, members in enumerate(sorted(classes, key=len), start=1):
        if 0 in members:
            continue
        if not tables or not is_plain:
            tables.append(np.zeros(highest + 3, np.int16))
        tables[-1][list(members)] = number
    return tables
