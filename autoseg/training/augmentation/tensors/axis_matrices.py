"""Linear changes along one axis as matrices: blur and simulated low resolution of many channels at once.

Each channel has its own strength, hence its own matrix of (result, source) for each axis. A product with small dense
matrices takes a GPU less time than the additions of shifted arrays would, and needs no kernel of its own.
"""

from typing import Final

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from autoseg.training.augmentation.tensors.transfer import copy_to_device

BLUR_REACH: Final = 4.0  # standard deviations; as SciPy's gaussian_filter


def apply_along_axis(
    rows: Float32[Tensor, " row *space"], matrices: Float32[Tensor, "row extent extent"], axis: int
) -> Float32[Tensor, " row *space"]:
    """Multiplies every line along `axis` (of the space) by the matrix of its row."""
    count, extents = rows.shape[0], rows.shape[1:]
    if axis == len(extents) - 1:
        lines = rows.reshape(count, -1, extents[axis])
        return torch.bmm(lines, matrices.transpose(1, 2)).reshape(rows.shape)
    planes = rows.reshape(count, int(np.prod(extents[:axis])), extents[axis], -1)
    return torch.matmul(matrices[:, None], planes).reshape(rows.shape)


def compute_blur_matrices(
    sigmas_voxels: Float32[Tensor, " row"], extent: int, *, largest_sigma_voxels: float
) -> Float32[Tensor, "row extent extent"]:
    """Computes Gaussian kernels, truncated and normalized as SciPy's, with the axis mirrored about its edges.

    Args:
        sigmas_voxels: Standard deviations above 0.
        extent: Extent of the axis.
        largest_sigma_voxels: No sigma is larger.
    """
    reach = int(BLUR_REACH * largest_sigma_voxels + 0.5)
    places = torch.arange(extent, device=sigmas_voxels.device)
    kernels = _compute_kernels(sigmas_voxels, reach)
    matrices = torch.zeros(len(sigmas_voxels), extent, extent, device=sigmas_voxels.device)
    mirrorings = reach // (2 * extent) + 1
    for mirroring in range(-mirrorings, mirrorings + 1):
        for sources in (2 * extent * mirroring + places, 2 * extent * mirroring - 1 - places):
            distances = (places[:, None] - sources[None]).abs()
            matrices += kernels[:, distances.clamp_max(reach + 1)]
    return matrices


def _compute_kernels(sigmas_voxels: Tensor, reach: int) -> Float32[Tensor, "row distance"]:
    """Computes the weights at the distances 0, 1, ... reach, and one zero for everything further."""
    distances = torch.arange(reach + 2, device=sigmas_voxels.device)
    weights = torch.exp(-0.5 * (distances / sigmas_voxels[:, None]) ** 2)
    weights = weights * (distances <= torch.floor(BLUR_REACH * sigmas_voxels + 0.5)[:, None]) * (distances <= reach)
    return weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])


def compute_low_resolution_matrices(
    zooms: np.ndarray, extent: int, device: torch.device
) -> Float32[Tensor, "row extent extent"]:
    """Downsamples to round(extent * zoom) voxels (at least one) by the nearest voxel, then upsamples linearly."""
    coarse = np.maximum(np.round(zooms * extent), 1).astype(np.int64)[:, None]
    positions = np.clip((np.arange(extent) + 0.5) * coarse / extent - 0.5, 0, coarse - 1)
    before = np.floor(positions).astype(np.int64)
    after = np.minimum(before + 1, coarse - 1)
    sources = [copy_to_device(_find_nearest(places, coarse, extent), device) for places in (before, after)]
    share = copy_to_device((positions - before).astype(np.float32), device)[:, :, None]
    columns = torch.arange(extent, device=device)
    is_before, is_after = (places[:, :, None] == columns for places in sources)
    return is_before * (1 - share) + is_after * share


def _find_nearest(places: np.ndarray, coarse: np.ndarray, extent: int) -> Int64[np.ndarray, "row extent"]:
    """Finds the voxel of the fine axis at the centre of each voxel of the coarse one."""
    nearest: Int64[np.ndarray, "row extent"] = (2 * places + 1) * extent // (2 * coarse)
    return nearest
