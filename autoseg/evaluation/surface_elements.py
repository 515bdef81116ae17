"""Areas of the surface elements of a mask, from the geometry of marching cubes.

A surface element sits at the corner where 2x2x2 voxels (2x2 pixels) meet, if some of them are inside and some outside.
Its code has one bit per voxel; the element is the piece of surface that marching cubes (Lorensen and Cline 1987) puts
between the voxel centres: its vertices are the middles of edges of the cube of centres. Surface Dice is defined by
these elements (Nikolov et al. 2018, arXiv:1809.04430). Where the surface is ambiguous, voxels of the smaller side that
share no face are enclosed separately; inside and outside are treated alike.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from numpy.typing import NDArray
from scipy import ndimage

Projections = list[NDArray[np.float64]]

MOST_PIECES: Final = 4  # for example of four single voxels


def compute_codes(mask: Bool[np.ndarray, "*space"]) -> UInt8[np.ndarray, "..."]:
    """Computes the codes of all corners of a mask, one more than voxels per axis; it is empty outside the array.

    The voxel that lies before the corner on all axes is bit 0; lying after it on axis k shifts the bit by 2**k.
    """
    codes = np.pad(mask, 1).view(np.uint8)
    for axis in range(mask.ndim):
        before = codes[(slice(None),) * axis + (slice(None, -1),)]
        after = codes[(slice(None),) * axis + (slice(1, None),)]
        codes = before | (after << np.uint8(1 << axis))
    return codes


def fill_unknown(
    codes: UInt8[np.ndarray, "*corners"], unknown: UInt8[np.ndarray, "*corners"]
) -> UInt8[np.ndarray, "*corners"]:
    """Fills the unknown voxels of each corner with its nearest known voxel; between two that are as near, as outside.

    So a surface continues straight where the known voxels end, and there is none between known and unknown voxels.

    Args:
        codes: Codes of a mask; what they say of unknown voxels is not used.
        unknown: Codes of the mask of unknown voxels.
    """
    is_touched = unknown != 0
    filled = codes.copy()
    filled[is_touched] = _list_filled_codes(codes.ndim)[unknown[is_touched], codes[is_touched]]
    return filled


@functools.cache
def _list_filled_codes(dimensions: int) -> UInt8[np.ndarray, "unknown code"]:
    voxels = np.arange(2**dimensions)
    unknown, codes = np.meshgrid(*(np.arange(2 ** len(voxels)),) * 2, indexing="ij")
    outside, filled = ~codes & ~unknown, codes & ~unknown
    for voxel in voxels:
        is_open = (unknown >> voxel & 1).astype(bool)
        steps = np.bitwise_count(voxels ^ voxel)
        for distance in range(1, 1 + dimensions):
            near = int((1 << voxels[steps == distance]).sum())
            is_inside = is_open & ((codes & ~unknown & near) != 0) & ((outside & near) == 0)
            filled |= is_inside.astype(filled.dtype) << voxel
            is_open &= (~unknown & near) == 0
    table: UInt8[np.ndarray, "unknown code"] = filled.astype(np.uint8)
    table.flags.writeable = False
    return table


def compute_areas(spacing_mm: tuple[float, ...]) -> Float64[np.ndarray, " codes"]:
    """Computes the area (mm^2; for two axes the contour length in mm) of the surface element of every code."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    faces_mm2 = spacing.prod() / spacing
    areas_mm2: NDArray[np.float64] = np.linalg.norm(_list_projections(spacing.size) * faces_mm2, axis=-1).sum(axis=1)
    return areas_mm2


@functools.cache
def _list_projections(dimensions: int) -> NDArray[np.float64]:
    """Computes the projections of the flat pieces of every code's element: (code, piece, axis), padded with zeros."""
    projections = np.zeros((2**2**dimensions, MOST_PIECES, dimensions))
    for code in range(len(projections)):
        parts = _split_smaller_side(code, dimensions)
        pieces = list(itertools.chain.from_iterable(_list_flat_pieces(part) for part in parts))
        projections[code, : len(pieces)] = pieces if pieces else 0
    projections.flags.writeable = False
    return projections


def _split_smaller_side(code: int, dimensions: int) -> Iterator[NDArray[np.int64]]:
    """Yields the voxels (indices 0 or 1 per axis) of each face-connected part of the smaller side."""
    cube = np.zeros((2,) * dimensions, dtype=bool)
    for voxel in np.ndindex(cube.shape):
        bit = sum(step << axis for axis, step in enumerate(voxel))
        cube[voxel] = bool(code >> bit & 1)
    parts, count = ndimage.label(cube if 2 * cube.sum() <= cube.size else ~cube)
    for part in range(1, count + 1):
        yield np.argwhere(parts == part)


def _list_flat_pieces(voxels: NDArray[np.int64]) -> Projections:
    """Lists the flat pieces of the surface that separates connected voxels from the rest of the cube.

    Returns:
        Per piece the areas of its projections along the axes, as fractions of the faces of the cube. The area of a
        piece is the norm of its projections, at any spacing.
    """
    extent = np.ptp(voxels, axis=0)
    flat_axes = 1.0 - extent
    everywhere = np.ones(extent.size)
    if len(voxels) == 1:  # a triangle with legs of half an edge; in 2D a line between the middles of two sides
        return [everywhere / 8 if extent.size == 3 else everywhere / 2]
    if len(voxels) == 2:  # an oblique rectangle; in 2D a straight line
        return [flat_axes / 2 ** (extent.size - 2)]
    if len(voxels) == 3:  # a right-angled triangle across the plane of the voxels, and an oblique trapezoid
        return [flat_axes / 2, 3 / 8 * everywhere]
    if extent.sum() == 2:  # a square
        return [flat_axes]
    return _list_pieces_of_four_in_space(voxels, everywhere)


def _list_pieces_of_four_in_space(voxels: NDArray[np.int64], everywhere: NDArray[np.float64]) -> Projections:
    """Lists the pieces for four voxels not in a plane: a corner with its three neighbours, or a path on all axes."""
    middle_of_path = (voxels.sum(axis=0) == 2).astype(np.float64)  # the step in the middle parts two from two
    if not middle_of_path.any():
        return [6 / 8 * everywhere]  # a regular hexagon
    ends = [np.eye(3)[axis] for axis in np.flatnonzero(middle_of_path == 0)]
    return [*((middle_of_path + end) / 4 for end in ends), everywhere / 8, 3 / 8 * everywhere]  # a bent hexagon
