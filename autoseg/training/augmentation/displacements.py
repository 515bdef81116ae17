"""Random fields of displacements, for elastic deformation.

Every kind of field is a linear map of independent normal numbers, separable in the axes: from the nodes of a coarse
grid by cubic splines, or from a number for each voxel by a Gaussian. So one matrix for each axis describes it, in numpy
and on a device alike.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.interpolate import CubicSpline
from torch import Tensor

from autoseg.plan.elastic import CoarseGridField, ElasticPlan, SmoothedField, SpacedGridField
from autoseg.training.augmentation.tensors.counter_random import draw_normal
from autoseg.training.augmentation.tensors.transfer import copy_together

Basis = Float64[np.ndarray, "extent node"]

KERNEL_REACH: Final = 4.0  # standard deviations; as SciPy's gaussian_filter


def compute_bases(plan: ElasticPlan, extents: Sequence[int]) -> list[Basis]:
    """Computes, for each axis of a patch, the share that each node has in the displacement of each voxel."""
    return [np.ones((1, 1)) if extent == 1 else FIELDS[plan.field](plan, extent) for extent in extents]


def _spread_nodes(plan: CoarseGridField, extent: int) -> Basis:
    """Places so many nodes on a patch, the outermost ones on its outermost voxels."""
    return _interpolate(np.linspace(0, extent - 1, plan.nodes_per_axis), extent)


def _space_nodes(plan: SpacedGridField, extent: int) -> Basis:
    """Places nodes at a fixed distance, about the centre of a patch, so that they enclose it."""
    count = math.ceil((extent - 1) / plan.spacing_voxels) + 1
    return _interpolate((extent - 1) / 2 + plan.spacing_voxels * (np.arange(count) - (count - 1) / 2), extent)


def _interpolate(nodes: Float64[np.ndarray, " node"], extent: int) -> Basis:
    """Interpolates between nodes by natural cubic splines, so that at a node its own number counts alone."""
    shares: Basis = CubicSpline(nodes, np.eye(len(nodes)), bc_type="natural")(np.arange(extent))
    return shares


def _smooth(plan: SmoothedField, extent: int) -> Basis:
    """Smooths a number for each voxel by a Gaussian, scaled so that the variance stays 1 in every voxel: the axis goes
    round."""
    reach = int(KERNEL_REACH * plan.sigma_voxels + 0.5)
    distances = np.arange(-reach, reach + 1)
    kernel = np.zeros(extent)
    np.add.at(kernel, distances % extent, np.exp(-0.5 * (distances / plan.sigma_voxels) ** 2))
    places = np.arange(extent)
    shares: Basis = (kernel / np.linalg.norm(kernel))[(places[:, None] - places) % extent]
    return shares


FIELDS: Final[dict[str, Callable[[Any, int], Basis]]] = {
    "coarse_grid": _spread_nodes,
    "spaced_grid": _space_nodes,
    "smoothed": _smooth,
}


def draw_displacements(plan: ElasticPlan, extents: Sequence[int]) -> Float64[np.ndarray, " axis *space"]:
    """Draws the displacement along each axis of every voxel of a patch, in voxels, from numpy's global generator."""
    bases = compute_bases(plan, extents)
    field = np.random.normal(scale=plan.std_voxels, size=(len(extents), *(basis.shape[1] for basis in bases)))
    for axis, basis in enumerate(bases, start=1):
        field = np.moveaxis(np.tensordot(field, basis, axes=(axis, 1)), -1, axis)
    return field


@lru_cache(maxsize=16)
def _hold_bases(plan: ElasticPlan, extents: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """Computes the bases once; they stay on the device."""
    return copy_together(compute_bases(plan, extents), device)


def compute_displacements(
    plan: ElasticPlan,
    extents: tuple[int, ...],
    *,
    keys: Int64[Tensor, " sample"],
    std_voxels: Float32[Tensor, " sample"],
) -> Float32[Tensor, "sample axis *space"]:
    """Computes the displacements that follow from keys, with a standard deviation for each sample, on a device."""
    bases = _hold_bases(plan, extents, keys.device)
    nodes = [basis.shape[1] for basis in bases]
    field = draw_normal(keys, len(extents) * math.prod(nodes), std_voxels).view(len(keys), len(extents), *nodes)
    for axis, basis in enumerate(bases, start=2):
        field = torch.movedim(torch.tensordot(field, basis, dims=([axis], [1])), -1, axis)
    return field
