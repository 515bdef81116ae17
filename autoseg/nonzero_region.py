"""The nonzero region of an image: voxels where any channel differs from zero, holes included."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # half open per axis

FULL_CONNECTIVITY: Final = {2: 8, 3: 26}  # by number of axes: neighbours through faces, edges and corners
SMALLEST_EXTENT_WITH_HOLES: Final = 3  # a hole needs a wall on both sides of it


def compute_nonzero_mask(image: Float32[np.ndarray, "channel z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Computes the mask of voxels where any channel is not zero, holes included.

    A hole is a zero region from which no path of face neighbours leads to the border of the volume. A volume with
    one slice therefore has no holes: each of its voxels lies on the border.
    """
    mask = _find_nonzero_voxels(image)
    if not mask.all():
        box = mask[slice_box(compute_bounding_box(mask))]
        box |= find_holes(box)
    return mask


def compute_nonzero_box(image: Float32[np.ndarray, "channel z y x"]) -> Box:
    """Computes the bounding box of `compute_nonzero_mask` without filling holes; the full extent if all is zero."""
    return compute_bounding_box(_find_nonzero_voxels(image))


def compute_bounding_box(mask: Bool[np.ndarray, "z y x"]) -> Box:
    """Computes the smallest box around the true voxels; the full extent if there are none."""
    rows = np.flatnonzero(mask.any(axis=(1, 2)))
    if rows.size == 0:
        depth, height, width = mask.shape
        return (0, depth), (0, height), (0, width)
    z = (int(rows[0]), int(rows[-1]) + 1)
    plane = np.logical_or.reduce(mask[z[0] : z[1]], axis=0)
    return z, _find_extent(np.logical_or.reduce(plane, axis=1)), _find_extent(np.logical_or.reduce(plane, axis=0))


def slice_box(box: Box) -> tuple[slice, slice, slice]:
    """Returns the slices of a box in an array (z, y, x)."""
    z, y, x = box
    return slice(*z), slice(*y), slice(*x)


def find_holes(box: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Finds false voxels (2D or 3D) from which no path of face neighbours leads to the border of the array.

    The array may be cropped to the bounding box of a mask: a path to its border leads to that of the whole array.
    """
    if min(box.shape) < SMALLEST_EXTENT_WITH_HOLES:
        return np.zeros_like(box)
    import cc3d  # imported here because it takes 0.1 s, and few processes fill holes

    regions = cc3d.connected_components(~box, connectivity=2 * box.ndim, binary_image=True)
    is_hole = np.ones(int(regions.max()) + 1, dtype=bool)
    is_hole[0] = False  # the true voxels
    for axis in range(box.ndim):
        for face in (0, -1):
            is_hole[np.unique(regions.take(face, axis=axis))] = False
    holes: Bool[np.ndarray, "*space"] = is_hole[regions]
    return holes


def connect_voxels(mask: Bool[np.ndarray, "*space"], *, connectivity: int) -> UInt[np.ndarray, "*space"]:
    """Numbers the connected components of a mask from 1, in the order of their first voxels.

    cc3d gets integers: of a mask with the connectivity 26 it expects no more components than a quarter of the voxels,
    and fails where a small box has more, such as two voxels in a row that do not touch.
    """
    import cc3d  # imported here because it takes 0.1 s

    numbers: UInt[np.ndarray, "*space"] = cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity)
    return numbers


def number_components(mask: Bool[np.ndarray, "*space"]) -> Int32[np.ndarray, "*space"]:
    """Numbers the components of a mask (2D or 3D) whose voxels touch by faces, edges or corners, from 1."""
    numbers: Int32[np.ndarray, "*space"] = connect_voxels(mask, connectivity=FULL_CONNECTIVITY[mask.ndim]).astype(
        np.int32
    )
    return numbers


def _find_extent(occupied: Bool[np.ndarray, " extent"]) -> tuple[int, int]:
    first = int(occupied.argmax())
    return first, occupied.size - int(occupied[::-1].argmax())


def _find_nonzero_voxels(image: Float32[np.ndarray, "channel z y x"]) -> Bool[np.ndarray, "z y x"]:
    mask: Bool[np.ndarray, "z y x"] = image[0] != 0
    for channel in image[1:]:
        if mask.all():
            break
        mask |= channel != 0
    return mask
