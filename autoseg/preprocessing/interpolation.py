"""Separable spline interpolation: every axis is resampled by a matrix.

Splines are separable and linear, so resampling an axis is a multiplication with a fixed matrix. The matrix is banded:
blocks of consecutive outputs need few inputs, and each block is one matrix product that BLAS computes at full speed.

Positions follow `scipy.ndimage.zoom(mode="nearest", grid_mode=True)`; `skimage.transform.resize(mode="edge")`
is equivalent: output i lies at input position (i + 0.5) * old / new - 0.5, and the border voxels are extended outwards.
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, Int64

# The inverse of the cubic B-spline filter decays with |sqrt(3) - 2| = 0.268 per voxel: 0.268^16 < 1e-9.
SMALLEST_WEIGHT: Final = 1e-9
# Inputs that a block of the matrix is computed from beyond those it touches: 0.268^24 = 2e-14.
WINDOW_MARGIN_VOXELS: Final = 24
# scipy continues an array by so many border voxels before it computes spline coefficients.
SPLINE_PADDING_VOXELS: Final = 12
# Outputs per block: small blocks multiply fewer zeros, large ones use BLAS better (measured: flat between 32 and 96).
BLOCK_VOXELS: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class MatrixBlock:
    """Consecutive outputs and the consecutive inputs that they depend on."""

    outputs: slice
    inputs: slice
    weights: Float32[np.ndarray, "output input"]


@dataclass(frozen=True, slots=True, eq=False)
class LinearTaps:
    """The two neighbours of each output position, and their weights."""

    lower: Int64[np.ndarray, " output"]
    upper: Int64[np.ndarray, " output"]
    lower_weight: Float64[np.ndarray, " output"]
    upper_weight: Float64[np.ndarray, " output"]


def compute_source_positions(old: int, new: int) -> Float64[np.ndarray, " output"]:
    """Computes the positions of `new` output voxels among `old` input voxels."""
    positions: Float64[np.ndarray, " output"] = (np.arange(new) + 0.5) * (old / new) - 0.5
    return positions


def compute_nearest_indices(old: int, new: int) -> Int64[np.ndarray, " output"]:
    """Computes the nearest input of every output; halves are rounded up."""
    nearest = np.floor(compute_source_positions(old, new) + 0.5).astype(np.int64)
    indices: Int64[np.ndarray, " output"] = np.clip(nearest, 0, old - 1)
    return indices


def compute_linear_taps(old: int, new: int) -> LinearTaps:
    """Computes the neighbours and weights of linear interpolation with the rounding of scipy."""
    positions = np.clip(compute_source_positions(old, new), 0, old - 1)
    lower = np.floor(positions).astype(np.int64)
    lower_weight = 1.0 - (positions - lower)
    return LinearTaps(
        lower=lower, upper=np.minimum(lower + 1, old - 1), lower_weight=lower_weight, upper_weight=1.0 - lower_weight
    )


@lru_cache(maxsize=64)
def build_interpolation_matrix(old: int, new: int, order: int) -> tuple[MatrixBlock, ...]:
    """Builds the matrix (new, old) of spline interpolation of order 0, 1 or 3, divided into blocks."""
    starts = range(0, new, BLOCK_VOXELS)
    return tuple(_build_block(old, new, order, outputs=slice(s, min(s + BLOCK_VOXELS, new))) for s in starts)


def resample_axes(
    array: Float32[np.ndarray, "z y x"], shape: tuple[int, int, int], order: int
) -> Float32[np.ndarray, "new_z new_y new_x"]:
    """Interpolates every axis whose extent changes, in the order that takes the fewest multiplications."""
    for axis in _order_axes(array.shape, shape):
        array = _resample_axis(array, axis, new=shape[axis], order=order)
    return array


def _resample_axis(
    array: Float32[np.ndarray, "z y x"], axis: int, *, new: int, order: int
) -> Float32[np.ndarray, "new_z new_y new_x"]:
    blocks = build_interpolation_matrix(array.shape[axis], new, order)
    shape = list(array.shape)
    shape[axis] = new
    result = np.empty(shape, dtype=np.float32)
    if axis == 0:
        source, target = array.reshape(array.shape[0], -1), result.reshape(new, -1)
        for block in blocks:
            np.matmul(block.weights, source[block.inputs], out=target[block.outputs])
    elif axis == 1:
        for block in blocks:
            np.matmul(block.weights, array[:, block.inputs], out=result[:, block.outputs])
    else:
        source, target = array.reshape(-1, array.shape[2]), result.reshape(-1, new)
        for block in blocks:
            np.matmul(source[:, block.inputs], block.weights.T, out=target[:, block.outputs])
    return result


def _order_axes(old: tuple[int, ...], new: tuple[int, int, int]) -> tuple[int, ...]:
    changed = [axis for axis in range(3) if old[axis] != new[axis]]

    def count_outputs(order: tuple[int, ...]) -> int:
        shape, total = list(old), 0
        for axis in order:
            shape[axis] = new[axis]
            total += shape[0] * shape[1] * shape[2]
        return total

    # Ties go to the last axis first: its products are the largest.
    return min(itertools.permutations(reversed(changed)), key=count_outputs)


def _build_block(old: int, new: int, order: int, *, outputs: slice) -> MatrixBlock:
    positions = compute_source_positions(old, new)[outputs]
    first = max(int(np.floor(positions[0])) - WINDOW_MARGIN_VOXELS, 0)
    last = min(int(np.ceil(positions[-1])) + WINDOW_MARGIN_VOXELS, old - 1)
    weights = _WEIGHTS[order](positions - first, last - first + 1)
    used = np.flatnonzero((np.abs(weights) > SMALLEST_WEIGHT).any(axis=0))
    begin, end = int(used[0]), int(used[-1]) + 1
    return MatrixBlock(
        outputs, slice(first + begin, first + end), np.ascontiguousarray(weights[:, begin:end], dtype=np.float32)
    )


def _compute_nearest_weights(
    positions: Float64[np.ndarray, " output"], extent: int
) -> Float64[np.ndarray, "output input"]:
    weights = np.zeros((positions.size, extent))
    weights[np.arange(positions.size), np.clip(np.floor(positions + 0.5).astype(np.int64), 0, extent - 1)] = 1.0
    return weights


def _compute_linear_weights(
    positions: Float64[np.ndarray, " output"], extent: int
) -> Float64[np.ndarray, "output input"]:
    distances = np.abs(np.clip(positions, 0, extent - 1)[:, None] - np.arange(extent))
    weights: Float64[np.ndarray, "output input"] = np.maximum(1.0 - distances, 0.0)
    return weights


def _compute_cubic_weights(
    positions: Float64[np.ndarray, " output"], extent: int
) -> Float64[np.ndarray, "output input"]:
    """Computes the B-spline weights times the prefilter that gives spline coefficients (Unser 1999)."""
    from scipy import ndimage  # imported here because it takes 0.3 s

    padded = np.pad(np.eye(extent), ((SPLINE_PADDING_VOXELS, SPLINE_PADDING_VOXELS), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(padded, order=3, axis=0, mode="nearest")
    lower = np.floor(positions).astype(np.int64)
    beyond = (positions - lower)[:, None]
    before = 1.0 - beyond
    kernel = (
        before**3 / 6.0,
        (4.0 - 6.0 * beyond**2 + 3.0 * beyond**3) / 6.0,
        (4.0 - 6.0 * before**2 + 3.0 * before**3) / 6.0,
        beyond**3 / 6.0,
    )
    first = lower + SPLINE_PADDING_VOXELS - 1
    weights = np.zeros((positions.size, extent))
    for offset, factor in enumerate(kernel):
        weights += factor * coefficients[first + offset]
    return weights


_WEIGHTS: Final = {0: _compute_nearest_weights, 1: _compute_linear_weights, 3: _compute_cubic_weights}
