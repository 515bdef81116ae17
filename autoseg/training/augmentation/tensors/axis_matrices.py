"""Blur of many channels at once, as a product with a matrix along each axis.

Each channel has its own strength, hence its own matrix of (result, source) for each axis. A product with small dense
matrices takes a GPU less time than the additions of shifted arrays would, and needs no kernel of its own.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from autoseg.training.augmentation.tensors.transfer import copy_to_device

BLUR_REACH: Final = 4.0  # standard deviations; as SciPy's gaussian_filter


def apply_along_axes(
    rows: Float32[Tensor, " row *space"], matrices: Sequence[Float32[Tensor, "row _ _"]]
) -> Float32[Tensor, " row *space"]:
    """Multiplies every line along each axis of the space by the matrix of its row and axis."""
    shape = rows.shape
    for matrix in reversed(matrices):  # the last axis becomes the first one, until all are where they were
        rows = torch.bmm(matrix, rows.reshape(len(rows), -1, matrix.shape[-1]).transpose(1, 2))
    return rows.view(shape)


def compute_blur_matrices(
    kernels: Float32[Tensor, "row axis distance"], extents: tuple[int, ...]
) -> list[Float32[Tensor, "row extent extent"]]:
    """Computes the matrix of each axis, which is mirrored about its edges, from kernels of `compute_blur_kernels`."""
    reach = kernels.shape[-1] - 2
    return [
        kernels[:, axis].index_select(1, distances.flatten()).view(-1, *distances.shape).sum(1)
        for axis, distances in enumerate(hold_distances(extent, reach, kernels.device) for extent in extents)
    ]


@lru_cache(maxsize=64)
def hold_distances(extent: int, reach: int, device: torch.device) -> Int64[Tensor, "image extent extent"]:
    """Computes the distances of voxels to the mirror images of all voxels once, at most one more than the reach; they
    stay on the device."""
    places, mirrorings = np.arange(extent), reach // (2 * extent) + 1
    images = [
        sources
        for mirroring in range(-mirrorings, mirrorings + 1)
        for sources in (2 * extent * mirroring + places, 2 * extent * mirroring - 1 - places)
    ]
    distances = np.abs(places[:, None] - np.stack(images)[:, None])
    within_reach = distances[(distances <= reach).any(axis=(1, 2))]
    return copy_to_device(np.minimum(within_reach, reach + 1), device)


def compute_blur_kernels(
    sigmas_voxels: Float64[np.ndarray, "row axis"], *, largest_sigma_voxels: float
) -> Float64[np.ndarray, "row axis distance"]:
    """Computes Gaussian kernels, truncated and normalized as SciPy's.

    Args:
        sigmas_voxels: Standard deviations; of 0: no blur.
        largest_sigma_voxels: No sigma is larger.

    Returns:
        Weights at the distances 0, 1, ... reach of the largest sigma, and one zero for everything further.
    """
    distances = np.arange(int(BLUR_REACH * largest_sigma_voxels + 0.5) + 2)
    sigmas = np.where(sigmas_voxels > 0, sigmas_voxels, 1.0)[..., None]
    weights = np.exp(-0.5 * (distances / sigmas) ** 2) * (distances <= np.floor(BLUR_REACH * sigmas + 0.5))
    weights[sigmas_voxels == 0] = distances == 0
    kernels: Float64[np.ndarray, "row axis distance"]
    kernels = weights / (2 * weights.sum(axis=-1, keepdims=True) - weights[..., :1])
    return kernels
