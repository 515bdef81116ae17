"""Interpolates label maps exactly, at a cost that does not depend on the number of labels.

Almost every output voxel lies between neighbours that all have the same label and takes it. Only for the others,
at the borders of labels, the shares of the neighbours are added up.
"""

import itertools
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int16, Int64

from autoseg.geometry import IntTriple
from autoseg.preprocessing.interpolation import LinearTaps, compute_linear_taps, compute_nearest_indices

# Voxels whose neighbours are compared at once: their 8 labels, weights and scores fit the cache of the CPU.
CHUNK_VOXELS: Final = 1 << 14


def interpolate_labels(
    label_map: Int16[np.ndarray, "z y x"], shape: IntTriple
) -> Int16[np.ndarray, "new_z new_y new_x"]:
    """Gives every output voxel the label whose indicator, interpolated linearly, is largest there.

    Exact ties are resolved in favour of the label of the nearest voxel if it is among them, else of the smallest label.
    This is the rule of batchgenerators 0.25.5 (`resize_segmentation`), with its rounding.
    """
    changed = [axis for axis in range(3) if label_map.shape[axis] != shape[axis]]
    if not changed:
        return label_map
    taps = {axis: compute_linear_taps(label_map.shape[axis], shape[axis]) for axis in changed}
    result, is_contested = label_map, _find_contested_cells(label_map, changed)
    for axis in changed:
        result = result.take(compute_nearest_indices(label_map.shape[axis], shape[axis]), axis=axis)
        is_contested = is_contested.take(taps[axis].lower, axis=axis)
    contested = np.flatnonzero(is_contested)
    flat = result.reshape(-1)
    for start in range(0, contested.size, CHUNK_VOXELS):
        chunk = contested[start : start + CHUNK_VOXELS]
        labels, weights = _gather_neighbours(label_map, np.unravel_index(chunk, shape), taps)
        flat[chunk] = _select_label(labels, weights, flat[chunk])
    return result


def _find_contested_cells(label_map: Int16[np.ndarray, "z y x"], axes: list[int]) -> Bool[np.ndarray, "z y x"]:
    """Finds cells whose corners have different labels; cell i spans voxels i and i + 1 of every axis in `axes`."""
    contested = np.zeros(label_map.shape, dtype=bool)
    corner = label_map
    for axis in axes:
        lower, upper = _slice_pair(axis)
        # The cells along the previous axes are already known at both ends; only the edge between the ends is new.
        ends = contested[lower] | contested[upper]
        contested[lower] = ends | (corner[lower] != corner[upper])
    return contested


def _slice_pair(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    before = (slice(None),) * axis
    return (*before, slice(None, -1)), (*before, slice(1, None))


def _gather_neighbours(
    label_map: Int16[np.ndarray, "z y x"], voxels: tuple[Int64[np.ndarray, " voxel"], ...], taps: dict[int, LinearTaps]
) -> tuple[Int16[np.ndarray, "tap voxel"], Float64[np.ndarray, "tap voxel"]]:
    """Returns the labels and weights of the neighbours that each voxel is interpolated from."""
    strides = (label_map.shape[1] * label_map.shape[2], label_map.shape[2], 1)
    choices = [_list_choices(voxels[axis], taps.get(axis)) for axis in range(3)]
    labels, weights = [], []
    flat = label_map.reshape(-1)
    # z, y, x with x fastest, and weights multiplied from z to x: scipy's order, so that sums round alike and exact
    # ties are the same.
    for (z, z_weight), (y, y_weight), (x, x_weight) in itertools.product(*choices):
        labels.append(flat[z * strides[0] + y * strides[1] + x])
        weights.append(z_weight * y_weight * x_weight)
    return np.stack(labels), np.stack(weights)


def _list_choices(
    index: Int64[np.ndarray, " voxel"], taps: LinearTaps | None
) -> list[tuple[Int64[np.ndarray, " voxel"], Float64[np.ndarray, " voxel"]]]:
    if taps is None:
        return [(index, np.ones(index.size))]
    return [(taps.lower[index], taps.lower_weight[index]), (taps.upper[index], taps.upper_weight[index])]


def _select_label(
    labels: Int16[np.ndarray, "tap voxel"],
    weights: Float64[np.ndarray, "tap voxel"],
    nearest: Int16[np.ndarray, " voxel"],
) -> Int16[np.ndarray, " voxel"]:
    scores = np.zeros_like(weights)
    for label, weight in zip(labels, weights, strict=True):
        scores += weight * (labels == label)
    is_best = scores == scores.max(axis=0)
    best = np.where(is_best, labels, np.iinfo(np.int16).max).min(axis=0)
    nearest_is_best = (is_best & (labels == nearest)).any(axis=0)
    chosen: Int16[np.ndarray, " voxel"] = np.where(nearest_is_best, nearest, best)
    return chosen
