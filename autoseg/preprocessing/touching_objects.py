"""Separation of touching objects of a class by background, so that each is a connected component of its own.

Ronneberger et al. 2015 (U-Net) introduce such borders between touching cells. They are drawn on the grid on which the
network is trained, two voxels wide, so that they stay where patches are rotated and scaled.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int16, Int32

from autoseg.geometry import IntTriple


def resample_objects(objects: Int32[np.ndarray, "z y x"], shape: IntTriple) -> Int32[np.ndarray, "new_z new_y new_x"]:
    """Resamples numbers of objects by the nearest voxel."""
    places = [
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for old, new in zip(objects.shape, shape, strict=True)
    ]
    resampled: Int32[np.ndarray, "new_z new_y new_x"] = objects[np.ix_(*places)]
    return resampled


def separate_objects(
    label_map: Int16[np.ndarray, "z y x"], objects: Int32[np.ndarray, "z y x"], *, dimensions: int
) -> Int16[np.ndarray, "z y x"]:
    """Returns a copy in which voxels are background that touch another object of the same label.

    Args:
        label_map: Internal labels.
        objects: Number of the object at every voxel; 0 for none.
        dimensions: 3, or 2 if patches are slices, which objects touch in their plane alone. Voxels touch through faces,
            edges and corners. An object that would vanish keeps all of its voxels.
    """
    is_contact = find_contacts(label_map, objects, dimensions=dimensions)
    is_object = (objects > 0) & (label_map > 0)
    vanishing = np.setdiff1d(np.unique(objects[is_contact]), np.unique(objects[is_object & ~is_contact]))
    if vanishing.size:
        is_contact &= ~np.isin(objects, vanishing)
    return np.where(is_contact, np.int16(0), label_map)


def find_contacts(
    label_map: Int16[np.ndarray, "z y x"], objects: Int32[np.ndarray, "z y x"], *, dimensions: int
) -> Bool[np.ndarray, "z y x"]:
    """Finds voxels of objects that touch another object of the same label; arguments as in `separate_objects`."""
    is_contact = np.zeros(label_map.shape, dtype=bool)
    for first, second in _list_neighbours(dimensions):
        touches = (label_map[first] == label_map[second]) & (label_map[first] > 0)
        touches &= (objects[first] != objects[second]) & (objects[first] > 0) & (objects[second] > 0)
        is_contact[first] |= touches
        is_contact[second] |= touches
    return is_contact


def _list_neighbours(dimensions: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Lists every pair of neighbouring voxels once, as slices of three axes."""
    for steps in itertools.product((-1, 0, 1), repeat=dimensions):
        if steps > (0,) * dimensions:
            offsets = (0,) * (3 - dimensions) + steps
            yield (
                tuple(slice(max(0, -step), -step if step > 0 else None) for step in offsets),
                tuple(slice(max(0, step), step if step < 0 else None) for step in offsets),
            )
