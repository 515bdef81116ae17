"""Traces the outlines of a mask along the edges of its pixels, so that they enclose exactly its area.

Outlines through the middle between pixels, as marching squares draws them, cut every corner: each closed one lacks half
a pixel.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

Corner = tuple[int, int]


def trace_outlines(mask: Bool[np.ndarray, "y x"]) -> list[Int[np.ndarray, "corner 2"]]:
    """Returns closed polygons (row, column of the corners of pixels: pixel (0, 0) has the corners 0 and 1).

    Pixels that touch at a corner alone are apart. A hole is reached through a channel of no width (a keyhole), as
    DICOM PS3.3 C.8.8.6.3 describes.
    """
    loops = _trace_loops(mask)
    outer = [loop for loop in loops if _compute_area(loop) > 0]
    holes = sorted((loop for loop in loops if _compute_area(loop) < 0), key=lambda loop: min(c for _, c in loop))
    places: dict[Corner, int] = {}
    for index, loop in enumerate(outer):
        places.update(dict.fromkeys(loop, index))
    for hole in holes:
        _join_hole(hole, outer, places)
    return [_drop_straight_corners(np.array(loop)) for loop in outer]


def _trace_loops(mask: Bool[np.ndarray, "y x"]) -> list[list[Corner]]:
    """Follows the edges between mask and background with the mask on the right-hand side."""
    following = _list_edges(mask)
    loops = []
    while following:
        start = next(iter(following))
        corner, step = start, (0, 0)
        loop: list[Corner] = []
        while True:
            ends = following[corner]
            right = (corner[0] + step[1], corner[1] - step[0])
            end = right if right in ends else ends[0]
            ends.remove(end)
            if not ends:
                del following[corner]
            loop.append(corner)
            corner, step = end, (end[0] - corner[0], end[1] - corner[1])
            if corner == start:
                break
        loops.append(loop)
    return loops


def _list_edges(mask: Bool[np.ndarray, "y x"]) -> dict[Corner, list[Corner]]:
    inside = np.pad(mask, 1)
    core = inside[1:-1, 1:-1]
    edges: dict[Corner, list[Corner]] = defaultdict(list)
    for neighbours, first, last in (
        (inside[:-2, 1:-1], (0, 0), (0, 1)),
        (inside[1:-1, 2:], (0, 1), (1, 1)),
        (inside[2:, 1:-1], (1, 1), (1, 0)),
        (inside[1:-1, :-2], (1, 0), (0, 0)),
    ):
        for row, column in np.argwhere(core & ~neighbours).tolist():
            edges[row + first[0], column + first[1]].append((row + last[0], column + last[1]))
    return edges


def _compute_area(loop: Sequence[Corner]) -> float:
    rows, columns = np.array(loop).T
    return float(np.sum(columns * np.roll(rows, -1) - rows * np.roll(columns, -1))) / 2


def _join_hole(hole: list[Corner], outer: list[list[Corner]], places: dict[Corner, int]) -> None:
    """Inserts a hole into the outline to its left, which every hole has: what lies between belongs to the mask."""
    row, column = min(hole, key=lambda corner: corner[1])
    meeting = next((row, at) for at in range(column, -1, -1) if (row, at) in places)
    index = places[meeting]
    at, first = outer[index].index(meeting), hole.index((row, column))
    around = [*hole[first:], *hole[: first + 1]]
    outer[index] = [*outer[index][: at + 1], *around, *outer[index][at:]]
    places.update(dict.fromkeys(hole, index))


def _drop_straight_corners(loop: Int[np.ndarray, "corner 2"]) -> Int[np.ndarray, "kept 2"]:
    """Drops corners between two steps of one direction, and doubled ones."""
    loop = loop[(loop != np.roll(loop, 1, axis=0)).any(axis=1)]
    before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
    is_corner = (np.sign(before) != np.sign(after)).any(axis=1)
    return np.asarray(loop[is_corner])
