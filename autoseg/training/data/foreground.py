"""Index of the foreground for patch sampling: cases that hold each class, and connected components of each case.

Both are computed at their first use and cached. Preprocessing does not store components: most trainings do not need
them, and those of one class take 0.3 s of one core for a case of 10 million voxels (measured), once. The drawback:
every worker process computes its own (the threads that make patches for a GPU share them).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Bool, Int16, Int32

from autoseg.nonzero_region import connect_voxels
from autoseg.preprocessing.cache import CachedCase

Coordinates = Int32[np.ndarray, "_ 3"]

# Enough that patches of a large component hardly repeat, few enough that thousands of components fit into memory.
MOST_VOXELS_PER_COMPONENT: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldClass:
    """A class and the cases in which it occurs, at least one."""

    index: int
    case_names: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class ForegroundIndex:
    """Cache of the classes and components of some cases."""

    _classes: tuple[FoldClass, ...] | None = None
    _components: dict[tuple[str, int], tuple[Coordinates, ...]] = field(default_factory=dict)

    def list_classes(self, case_names: Sequence[str], open_case: Callable[[str], CachedCase]) -> tuple[FoldClass, ...]:
        """Lists the classes that occur in any of the cases, which must always be the same: those of a fold."""
        if self._classes is None:
            self._classes = find_classes(case_names, open_case)
        return self._classes

    def list_components(self, case: CachedCase, class_index: int) -> tuple[Coordinates, ...]:
        """Lists the voxels of each connected component of a class that occurs in a case."""
        key = (case.name, class_index)
        if key not in self._components:
            self._components[key] = find_class_components(case, class_index)
        return self._components[key]


def find_classes(case_names: Sequence[str], open_case: Callable[[str], CachedCase]) -> tuple[FoldClass, ...]:
    """Finds the classes that occur in the cases, with their cases."""
    ranges = {name: open_case(name).locations.class_ranges for name in case_names}
    class_count = max(map(len, ranges.values()))
    found = (
        FoldClass(
            index=index,
            case_names=tuple(name for name in case_names if ranges[name][index][0] < ranges[name][index][1]),
        )
        for index in range(class_count)
    )
    return tuple(of_fold for of_fold in found if of_fold.case_names)


def find_class_components(case: CachedCase, class_index: int) -> tuple[Coordinates, ...]:
    """Lists voxels of each component (26 neighbours) of a class: all, or `MOST_VOXELS_PER_COMPONENT` spread over it.

    The labels of the class are those at its stored locations.
    """
    label_map: Int16[np.ndarray, "z y x"] = np.asarray(case.label_map[:])
    locations = case.locations.of_class(class_index)
    members = np.unique(label_map[tuple(locations.T)])
    return list_component_voxels(np.isin(label_map, members))


def list_component_voxels(mask: Bool[np.ndarray, "z y x"]) -> tuple[Coordinates, ...]:
    """Lists the voxels of each component of a mask."""
    import cc3d  # imported here because it takes 0.1 s, and most trainings need no components

    numbers = connect_voxels(mask, connectivity=26)
    boxes = cc3d.statistics(numbers)["bounding_boxes"][1:]
    return tuple(_list_voxels(numbers, number, box) for number, box in enumerate(boxes, start=1))


def _list_voxels(numbers: np.ndarray, number: int, box: tuple[slice, ...]) -> Coordinates:
    voxels = np.argwhere(numbers[box] == number)
    if len(voxels) > MOST_VOXELS_PER_COMPONENT:
        voxels = voxels[np.linspace(0, len(voxels) - 1, MOST_VOXELS_PER_COMPONENT).round().astype(np.intp)]
    coordinates: Coordinates = (voxels + [part.start for part in box]).astype(np.int32)
    return coordinates
