"""The shape of the foreground of a case: the share of its bounding box, and of its surface."""

import numpy as np
from jaxtyping import Bool, Int16

from autoseg.geometry import surround

Slices = tuple[slice, ...]


def measure_foreground_shape(
    label_map: Int16[np.ndarray, "z y x"], is_foreground: Bool[np.ndarray, "z y x"]
) -> dict[str, float]:
    """Measures box and surface of the foreground of a cropped case, by the fields of its fingerprint; none without any.

    Args:
        label_map: Internal labels.
        is_foreground: Voxels of all classes.
    """
    box = _find_box(is_foreground)
    if box is None:
        return {}
    around = surround(box)
    surface = _count_surface(label_map[around], is_foreground[around])
    return {
        "foreground_box_fraction": is_foreground[box].size / is_foreground.size,
        "surface_fraction": surface / int(np.count_nonzero(is_foreground)),
    }


def _find_box(is_foreground: Bool[np.ndarray, "z y x"]) -> Slices | None:
    profiles = [is_foreground.any(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    if not profiles[0].any():
        return None
    ends = (np.flatnonzero(profile)[[0, -1]].tolist() for profile in profiles)
    return tuple(slice(first, last + 1) for first, last in ends)


def _count_surface(label_map: Int16[np.ndarray, "z y x"], is_foreground: Bool[np.ndarray, "z y x"]) -> int:
    """Counts the voxels of the foreground that touch another label through a face."""
    count = 0
    for index, plane in enumerate(label_map):  # slice by slice: no array of the whole case
        touches = np.zeros(plane.shape, dtype=bool)
        for neighbour in label_map[max(0, index - 1) : index + 2]:
            touches |= neighbour != plane
        differs = plane[1:] != plane[:-1]
        touches[1:] |= differs
        touches[:-1] |= differs
        differs = plane[:, 1:] != plane[:, :-1]
        touches[:, 1:] |= differs
        touches[:, :-1] |= differs
        count += int(np.count_nonzero(touches & is_foreground[index]))
    return count
