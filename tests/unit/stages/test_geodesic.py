"""Geodesic distances to clicks equal Dijkstra's algorithm on the whole graph of voxels."""

import heapq
import itertools

import numpy as np
import pytest

from autoseg.stages.geodesic import compute_geodesic_distance, compute_proximity


def run_dijkstra(image, clicks, spacing_mm, edge_mm):
    """Searches all voxels, with the gradient of the whole image."""
    squares = sum(
        (np.gradient(image.astype(float), step, axis=axis + 1) ** 2).mean(axis=0)
        for axis, step in enumerate(spacing_mm)
        if image.shape[axis + 1] > 1
    )
    cost = 1 + edge_mm * np.sqrt(squares)
    distance = np.full(clicks.shape, np.inf)
    queue = [(0.0, tuple(place)) for place in np.argwhere(clicks).tolist()]
    while queue:
        length, place = heapq.heappop(queue)
        if length >= distance[place]:
            continue
        distance[place] = length
        for step in itertools.product((-1, 0, 1), repeat=clicks.ndim):
            near = tuple(np.add(place, step).tolist())
            if all(0 <= index < extent for index, extent in zip(near, clicks.shape, strict=True)):
                length_mm = np.linalg.norm(np.multiply(step, spacing_mm))
                heapq.heappush(queue, (length + length_mm * (cost[place] + cost[near]) / 2, near))
    return distance


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "channels"),
    [((5, 9, 8), (2.5, 1.0, 0.7), 2), ((1, 9, 8), (5.0, 1.0, 1.0), 1), ((12, 10), (1.0, 1.5), 3)],
)
@pytest.mark.parametrize("limit_mm", [3.0, 1000.0])
def test_distances_are_those_of_dijkstra_up_to_the_limit(shape, spacing_mm, channels, limit_mm):
    generator = np.random.default_rng(len(shape))
    image = generator.normal(size=(channels, *shape)).astype(np.float32)
    clicks = np.zeros(shape, bool)
    for place in generator.integers(0, shape, (3, len(shape))).tolist():
        clicks[tuple(place)] = True
    found = compute_geodesic_distance(image, clicks, spacing_mm=spacing_mm, edge_mm=0.8, limit_mm=limit_mm)
    expected = run_dijkstra(image, clicks, spacing_mm, 0.8)
    is_near = expected <= limit_mm
    assert is_near.sum() > 3
    np.testing.assert_allclose(found[is_near], expected[is_near], rtol=1e-12)
    assert np.isinf(found[~is_near]).all()


def test_proximity_falls_to_zero_at_the_reach_and_edges_shorten_it():
    image = np.zeros((1, 1, 1, 21), np.float32)
    image[..., 14:] = 3.0
    clicks = np.zeros((1, 1, 21), bool)
    clicks[0, 0, 10] = True
    near = compute_proximity(image, clicks, spacing_mm=(1.0, 1.0, 0.5), edge_mm=0.0, reach_mm=2.0)[0, 0]
    np.testing.assert_allclose(near[5:16], [0, 0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0])
    cut = compute_proximity(image, clicks, spacing_mm=(1.0, 1.0, 0.5), edge_mm=5.0, reach_mm=2.0)[0, 0]
    np.testing.assert_allclose(cut[5:13], near[5:13])
    assert not cut[13:].any()


def test_without_clicks_nothing_is_near():
    image = np.zeros((1, 3, 3), np.float32)
    none = np.zeros((3, 3), bool)
    assert np.isinf(compute_geodesic_distance(image, none, spacing_mm=(1.0, 1.0), edge_mm=1.0, limit_mm=9.0)).all()
