"""Geodesic distances to clicks: along paths that avoid edges of the image.

The length of a path is the integral of 1 + s |grad I| along it, where s is the length in millimetres that an intensity
step of one unit adds and |grad I| the gradient of the image per millimetre, the root mean square over the channels.
(Wang et al. 2018, DeepIGeoS, doi:10.1109/TPAMI.2018.2840695, use the gradient alone.) Paths go through the centres of
voxels, to neighbours through faces, edges and corners.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64

Box = tuple[slice, ...]


def compute_geodesic_distance(
    image: Float32[np.ndarray, " channel *space"],
    clicks: Bool[np.ndarray, "*space"],
    *,
    spacing_mm: Sequence[float],
    edge_mm: float,
    limit_mm: float,
) -> Float64[np.ndarray, "*space"]:
    """Computes the length of the shortest path to a click; infinite beyond the limit and without clicks.

    No path is shorter than the straight line, so only voxels within the limit of a click are looked at.

    Args:
        image: Normalized intensities.
        clicks: The voxels that were clicked.
        spacing_mm: Distance of neighbouring voxels along each axis.
        edge_mm: Length that an intensity step of one unit adds to a path.
        limit_mm: Longest path.
    """
    distance = np.full(clicks.shape, np.inf)
    for position in np.argwhere(clicks):
        box, centre = _find_box(position, clicks.shape, [limit_mm / step for step in spacing_mm])
        near = _compute_in_box(image, box, centre, spacing_mm=spacing_mm, edge_mm=edge_mm, limit_mm=limit_mm)
        distance[box] = np.minimum(distance[box], near)
    return distance


def compute_proximity(
    image: Float32[np.ndarray, " channel *space"],
    clicks: Bool[np.ndarray, "*space"],
    *,
    spacing_mm: Sequence[float],
    edge_mm: float,
    reach_mm: float,
) -> Float32[np.ndarray, "*space"]:
    """Computes a map that is 1 at clicks and falls with the geodesic distance to 0 at the reach."""
    distance = compute_geodesic_distance(image, clicks, spacing_mm=spacing_mm, edge_mm=edge_mm, limit_mm=reach_mm)
    return np.maximum(1 - distance / reach_mm, 0).astype(np.float32)


def _find_box(
    position: np.ndarray, shape: tuple[int, ...], radii_voxels: Sequence[float]
) -> tuple[Box, tuple[int, ...]]:
    """Finds the part of an array that is near a position, and the position in it."""
    starts = [max(0, int(place - int(radius))) for place, radius in zip(position, radii_voxels, strict=True)]
    stops = [
        min(extent, int(place + int(radius)) + 1)
        for place, radius, extent in zip(position, radii_voxels, shape, strict=True)
    ]
    box = tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))
    return box, tuple(int(place) - start for place, start in zip(position, starts, strict=True))


def _compute_in_box(
    image: Float32[np.ndarray, " channel *space"],
    box: Box,
    centre: tuple[int, ...],
    *,
    spacing_mm: Sequence[float],
    edge_mm: float,
    limit_mm: float,
) -> Float64[np.ndarray, "*box"]:
    from skimage.graph import MCP_Geometric  # imported here because it takes long and only clicks need it

    costs = 1 + edge_mm * _compute_gradient(image, box, spacing_mm)
    places = np.ogrid[tuple(slice(0, extent) for extent in costs.shape)]
    straight = sum(
        ((place - middle) * step) ** 2 for place, middle, step in zip(places, centre, spacing_mm, strict=True)
    )
    costs[straight > limit_mm**2] = -1  # no path goes there
    paths = MCP_Geometric(costs, fully_connected=True, sampling=tuple(spacing_mm))
    distance: Float64[np.ndarray, "*box"] = np.asarray(paths.find_costs([centre])[0])
    distance[~(distance <= limit_mm)] = np.inf
    return distance


def _compute_gradient(
    image: Float32[np.ndarray, " channel *space"], box: Box, spacing_mm: Sequence[float]
) -> Float64[np.ndarray, "*box"]:
    """Computes the gradient in a box as that of the whole image, from one more voxel on each side."""
    wide = tuple(
        slice(max(0, part.start - 1), min(extent, part.stop + 1))
        for part, extent in zip(box, image.shape[1:], strict=True)
    )
    inner = tuple(
        slice(part.start - around.start, part.stop - around.start) for part, around in zip(box, wide, strict=True)
    )
    values = image[(slice(None), *wide)].astype(np.float64)
    squares = np.zeros(values.shape[1:])
    for axis, step in enumerate(spacing_mm):
        if values.shape[axis + 1] > 1:
            squares += (np.gradient(values, step, axis=axis + 1) ** 2).mean(axis=0)
    return np.sqrt(squares)[inner]
