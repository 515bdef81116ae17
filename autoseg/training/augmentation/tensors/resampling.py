"""Rotation, scaling and deformation of many cuts at once, down to the patch in their middle.

The same positions and rules as in `autoseg.training.augmentation.spatial`: linear interpolation of the image, with
zeros around the cut; the label whose linearly interpolated indicator is largest, -1 beyond the outermost voxels.
"""

import itertools
from functools import reduce

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int16
from torch import Tensor
from torch.nn import functional

from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.training.augmentation.tensors.transfer import copy_to_device


def resample_cuts(
    image: Float32[Tensor, "batch channel *cut"],
    label_map: Int16[Tensor, " batch *maps_and_cut"],
    matrices: Float64[np.ndarray, "batch axis axis"],
    patch_voxels: tuple[int, ...],
    *,
    displacements: Float32[Tensor, "batch axis *warped"] | None = None,
) -> tuple[Float32[Tensor, "batch channel *patch"], Int16[Tensor, " batch *maps_and_patch"]]:
    """Applies one matrix per sample; with matrices of two axes for patches of three, to every slice alike.

    Args:
        image: Cuts; with matrices of two axes already as thick as the patch.
        label_map: Label maps of the same cuts; several of each cut may lie along a second axis.
        matrices: Maps from offsets to the centre of the patch to offsets to the centre of the cut.
        patch_voxels: Extent of the result.
        displacements: Added to the positions in the cut, of each voxel along each axis of the matrices.
    """
    warped = matrices.shape[-1]
    positions = compute_positions(matrices, patch_voxels[-warped:], tuple(label_map.shape[-warped:]), image.device)
    if displacements is not None:
        positions = [along + moved for along, moved in zip(positions, displacements.unbind(1), strict=True)]
    images = image.reshape(len(image), -1, *image.shape[-warped:])
    label_maps = label_map.reshape(len(label_map), -1, *label_map.shape[-warped:])
    leading = label_map.shape[: label_map.ndim - len(patch_voxels)]
    return (
        interpolate_images(images, positions).reshape(*image.shape[:2], *patch_voxels),
        interpolate_label_maps(label_maps, positions).reshape(*leading, *patch_voxels),
    )


def compute_matrices(
    angles_radians: Float64[np.ndarray, "batch angle"], scale: Float64[np.ndarray, " batch"]
) -> Float64[np.ndarray, "batch axis axis"]:
    """Computes rotations about one axis after the other (by one angle: in a plane), times the scale."""
    angles = angles_radians
    rotation = _turn_in_plane(angles[:, 0]) if angles.shape[1] == 1 else _turn_about_axes(angles)
    matrices: Float64[np.ndarray, "batch axis axis"] = rotation * scale[:, None, None]
    return matrices


def _turn_in_plane(angles: Float64[np.ndarray, " batch"]) -> Float64[np.ndarray, "batch 2 2"]:
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cosine, sine], axis=-1), np.stack([-sine, cosine], axis=-1)], axis=-2)


def _turn_about_axes(angles: Float64[np.ndarray, "batch 3"]) -> Float64[np.ndarray, "batch 3 3"]:
    """Computes rotation matrices with the sense of rotation of batchgenerators in each plane."""
    first, second, third = (np.tile(np.eye(3), (len(angles), 1, 1)) for _ in range(3))
    first[:, 1:, 1:] = _turn_in_plane(angles[:, 0])
    second[:, ::2, ::2] = _turn_in_plane(-angles[:, 1])
    third[:, :2, :2] = _turn_in_plane(angles[:, 2])
    return third @ second @ first


def compute_positions(
    matrices: Float64[np.ndarray, "batch axis axis"],
    patch_voxels: tuple[int, ...],
    cut_voxels: tuple[int, ...],
    device: torch.device,
) -> list[Float32[Tensor, " batch *patch"]]:
    """Computes the positions of the patch's voxels on each axis of the cut (in voxels; 0: centre of the first)."""
    on_device = copy_to_device(matrices.astype(np.float32), device)
    dimensions = len(patch_voxels)
    offsets = [
        (torch.arange(extent, device=device, dtype=torch.float32) - (extent - 1) / 2).view(
            *(-1 if other == axis else 1 for other in range(dimensions))
        )
        for axis, extent in enumerate(patch_voxels)
    ]
    factors = on_device.view(*on_device.shape, *(1,) * dimensions)
    return [
        reduce(torch.add, (factors[:, axis, other] * offset for other, offset in enumerate(offsets))) + (extent - 1) / 2
        for axis, extent in enumerate(cut_voxels)
    ]


def interpolate_images(
    images: Float32[Tensor, "batch channel *cut"], positions: list[Float32[Tensor, " batch *patch"]]
) -> Float32[Tensor, "batch channel *patch"]:
    """Interpolates linearly, with zeros around the cut."""
    extents = images.shape[2:]
    # grid_sample lists x first, and its coordinates run from -1 to 1 between the outer edges of the border voxels.
    steps = [(2 * along + 1) / extent - 1 for along, extent in zip(positions, extents, strict=True)]
    grid = torch.stack(steps[::-1], dim=-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def interpolate_label_maps(
    label_maps: Int16[Tensor, "batch layer *cut"], positions: list[Float32[Tensor, " batch *patch"]]
) -> Int16[Tensor, "batch layer *patch"]:
    """Finds the label whose linearly interpolated indicator is largest (of equal ones the nearest voxel's, else the
    smallest); -1 beyond the cut."""
    labels, weights = _gather_corners(label_maps, positions)
    nearest = torch.stack(weights).argmax(0)  # halfway the later voxel, as SciPy
    winner = torch.gather(torch.stack(labels), 0, nearest[None].expand(1, *labels[0].shape))[0]
    nearest_label, best = winner, _sum_weights(labels, weights, winner)
    for label in labels:
        score = _sum_weights(labels, weights, label)
        is_better = (score > best) | ((score == best) & (label < winner) & (winner != nearest_label))
        winner, best = torch.where(is_better, label, winner), torch.maximum(score, best)
    return winner.masked_fill(_find_beyond(positions, tuple(label_maps.shape[2:])), OUTSIDE_LABEL)


def _gather_corners(
    label_maps: Tensor, positions: list[Tensor]
) -> tuple[list[Int16[Tensor, "batch layer *patch"]], list[Float32[Tensor, "batch 1 *patch"]]]:
    """Gathers the labels of the 4 or 8 voxels around each position, the last corner first, and their weights."""
    extents = label_maps.shape[2:]
    batch, layers = label_maps.shape[:2]
    flat = label_maps.reshape(batch, layers, -1)
    before = [along.clamp(0, extent - 1).floor() for along, extent in zip(positions, extents, strict=True)]
    shares = [along - first for along, first in zip(positions, before, strict=True)]
    labels, weights = [], []
    for steps in itertools.product((1, 0), repeat=len(extents)):
        cells = torch.zeros_like(before[0], dtype=torch.int64)
        weight = torch.ones_like(before[0])
        for step, extent, first, share in zip(steps, extents, before, shares, strict=True):
            cells = cells * extent + (first.long() + step).clamp_max(extent - 1)
            weight = weight * (share if step else 1 - share)
        index = cells.reshape(batch, 1, -1).expand(batch, layers, -1)
        labels.append(flat.gather(2, index).view(batch, layers, *before[0].shape[1:]))
        weights.append(weight[:, None])
    return labels, weights


def _sum_weights(labels: list[Tensor], weights: list[Tensor], wanted: Tensor) -> Tensor:
    """Computes the interpolated indicator of one label per voxel, always added in the same order, so that ties stay."""
    score = torch.zeros(wanted.shape, dtype=weights[0].dtype, device=wanted.device)
    for label, weight in zip(labels, weights, strict=True):
        score += torch.where(label == wanted, weight, 0)
    return score


def _find_beyond(positions: list[Tensor], extents: tuple[int, ...]) -> Bool[Tensor, "batch 1 *patch"]:
    is_beyond = torch.zeros_like(positions[0], dtype=torch.bool)
    for along, extent in zip(positions, extents, strict=True):
        is_beyond |= (along < 0) | (along > extent - 1)
    return is_beyond[:, None]
