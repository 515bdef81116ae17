"""Rotation, scaling and deformation of many cuts at once, down to the patch in their middle.

The same positions and rules as in `autoseg.training.augmentation.spatial`: linear interpolation of the image, with
zeros around the cut; the label whose linearly interpolated indicator is largest, -1 beyond the outermost voxels.

Positions along all axes are one tensor, and the corners of a cell are one axis of it: few operations, and their number
depends neither on the number of patches nor on that of labels.
"""

import math
from functools import lru_cache, reduce
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int16, Int32, Shaped
from torch import Tensor
from torch.nn import functional

from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.training.augmentation.tensors.transfer import copy_together

LARGEST_LABEL: Final = 2**15 - 1
# Memory in which the labels of some corners are compared with those of all corners: the more corners at once, the fewer
# operations. Small patches, whose operations take less time than their launches, take few; large ones little memory.
COMPARISON_BYTES: Final = 2**26
BYTES_PER_COMPARISON: Final = 5  # a flag, and the weight of an equal label


class CutFrame(NamedTuple):
    """Constants of cuts and of the patches in their middle, on a device; but for the first, a value for each axis.

    Attributes:
        offsets: Offsets of the patch's voxels to its centre, of all axes one after the other.
        centres: Position of the centre in the cut.
        firsts: Position of the first voxel in the cut.
        lasts: Position of the last voxel in the cut.
        factors: Voxels to the coordinates of `grid_sample`, which run from -1 to 1 between the outer edges.
        shifts: Added to them.
        whole_lasts: The last voxel in the cut as an integer.
        strides: Steps between voxels in a flat cut.
    """

    offsets: Float32[Tensor, " offset"]
    centres: Float32[Tensor, " axis *ones"]
    firsts: Float32[Tensor, " axis *ones"]
    lasts: Float32[Tensor, " axis *ones"]
    factors: Float32[Tensor, " axis *ones"]
    shifts: Float32[Tensor, " axis *ones"]
    whole_lasts: Int32[Tensor, " axis *ones"]
    strides: Int32[Tensor, " axis *ones"]


def resample_cuts(
    image: Float32[Tensor, "batch channel *cut"],
    label_map: Int16[Tensor, " batch *maps_and_cut"],
    matrices: Float32[Tensor, "batch axis axis"],
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
    cut_voxels = tuple(label_map.shape[-warped:])
    positions = compute_positions(matrices, patch_voxels[-warped:], cut_voxels)
    if displacements is not None:
        positions = positions + displacements
    images = image.reshape(len(image), -1, *cut_voxels)
    label_maps = label_map.reshape(len(label_map), -1, *cut_voxels)
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
    first, second, third = np.tile(np.eye(3), (3, len(angles), 1, 1))
    first[:, 1:, 1:] = _turn_in_plane(angles[:, 0])
    second[:, ::2, ::2] = _turn_in_plane(-angles[:, 1])
    third[:, :2, :2] = _turn_in_plane(angles[:, 2])
    rotations: Float64[np.ndarray, "batch 3 3"] = third @ second @ first
    return rotations


@lru_cache(maxsize=64)
def hold_frame(patch_voxels: tuple[int, ...], cut_voxels: tuple[int, ...], device: torch.device) -> CutFrame:
    """Computes the constants of cuts once; they stay on the device."""
    extents = np.asarray(cut_voxels)
    strides = np.cumprod((1, *cut_voxels[:0:-1]))[::-1]
    offsets = np.concatenate([np.arange(extent) - (extent - 1) / 2 for extent in patch_voxels])
    columns: list[np.ndarray] = [
        (extents - 1) / 2,
        np.zeros(len(extents)),
        extents - 1.0,
        2 / extents,
        1 / extents - 1,
        (extents - 1).astype(np.int32),
        strides.astype(np.int32),
    ]
    shape = (-1, *(1,) * len(extents))
    return CutFrame(*copy_together([offsets, *(part.reshape(shape) for part in columns)], device))


def compute_positions(
    matrices: Float32[Tensor, "batch axis axis"], patch_voxels: tuple[int, ...], cut_voxels: tuple[int, ...]
) -> Float32[Tensor, "batch axis *patch"]:
    """Computes the positions of the patch's voxels along each axis of the cut (in voxels; 0: centre of the first)."""
    frame = hold_frame(patch_voxels, cut_voxels, matrices.device)
    dimensions = len(patch_voxels)
    positions = frame.centres
    for axis, offsets in enumerate(torch.split(frame.offsets, list(patch_voxels))):
        factors = matrices[:, :, axis].view(*matrices.shape[:2], *(1,) * dimensions)
        positions = torch.addcmul(positions, factors, offsets.view(-1, *(1,) * (dimensions - axis - 1)))
    return positions


def interpolate_images(
    images: Float32[Tensor, "batch channel *cut"], positions: Float32[Tensor, "batch axis *patch"]
) -> Float32[Tensor, "batch channel *patch"]:
    """Interpolates linearly, with zeros around the cut."""
    frame = hold_frame(tuple(positions.shape[2:]), tuple(images.shape[2:]), images.device)
    # grid_sample lists x first.
    grid = torch.addcmul(frame.shifts, positions, frame.factors).flip(1).movedim(1, -1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def interpolate_label_maps(
    label_maps: Int16[Tensor, "batch layer *cut"], positions: Float32[Tensor, "batch axis *patch"]
) -> Int16[Tensor, "batch layer *patch"]:
    """Finds the label whose linearly interpolated indicator is largest (of equal ones the nearest voxel's, else the
    smallest); -1 beyond the cut."""
    frame = hold_frame(tuple(positions.shape[2:]), tuple(label_maps.shape[2:]), label_maps.device)
    inside = positions.clamp(frame.firsts, frame.lasts)
    is_beyond = (inside != positions).any(1, keepdim=True)
    first = inside.floor_()
    labels = _gather_corners(label_maps, first, frame)
    winner = _choose_labels(labels, _weigh_corners(positions - first))
    return winner.masked_fill_(is_beyond, OUTSIDE_LABEL)


def _gather_corners(
    label_maps: Int16[Tensor, "batch layer *cut"], first: Float32[Tensor, "batch axis *patch"], frame: CutFrame
) -> Int16[Tensor, "batch layer corner *patch"]:
    """Gathers the labels of the 4 or 8 voxels around each position, the last corner first."""
    batch, layers, *cut_voxels = label_maps.shape
    whole = first.to(torch.int32)
    places = torch.stack([torch.minimum(whole + 1, frame.whole_lasts), whole], dim=1).mul_(frame.strides)
    along, *others = _align_axes(places)
    dtype = torch.int32 if label_maps.numel() < 2**31 else torch.int64
    starts = torch.arange(0, label_maps.numel(), math.prod(cut_voxels), dtype=dtype, device=first.device)
    along = along[:, None] + starts.view(batch, layers, *(1,) * (along.ndim - 1))
    cells = reduce(torch.add, [along, *(other[:, None] for other in others)]).flatten(2, 1 + len(cut_voxels))
    return label_maps.flatten().index_select(0, cells.flatten()).view(cells.shape)


def _weigh_corners(shares: Float32[Tensor, "batch axis *patch"]) -> Float32[Tensor, "batch corner *patch"]:
    """Computes the weights of the same voxels."""
    weights = reduce(torch.mul, _align_axes(torch.stack([shares, 1 - shares], dim=1)))
    return weights.flatten(1, shares.shape[1])


def _align_axes(parts: Shaped[Tensor, "batch 2 axis *patch"]) -> list[Tensor]:
    """Gives each axis of the positions an axis of its own for its two voxels, so that all corners are combinations."""
    batch, _, axes, *patch_voxels = parts.shape
    return [
        parts[:, :, axis].view(batch, *(2 if other == axis else 1 for other in range(axes)), *patch_voxels)
        for axis in range(axes)
    ]


def _choose_labels(
    labels: Int16[Tensor, "batch layer corner *patch"], weights: Float32[Tensor, "batch corner *patch"]
) -> Int16[Tensor, "batch layer *patch"]:
    """Chooses the label with the largest sum of weights. The weights of a label are always added in the same order, so
    that ties stay."""
    at_once = COMPARISON_BYTES // (labels.numel() * BYTES_PER_COMPARISON)
    count = min(max(1, at_once), labels.shape[2])
    scores = torch.empty(labels.shape, device=labels.device)
    for candidates, part in zip(torch.split(labels, count, dim=2), torch.split(scores, count, dim=2), strict=True):
        is_equal = labels[:, :, None] == candidates[:, :, :, None]
        torch.sum(is_equal * weights[:, None, None], dim=3, out=part)
    is_beaten = scores != scores.amax(2, keepdim=True)
    nearest = weights.argmax(1)[:, None, None].expand(-1, labels.shape[1], -1, *weights.shape[2:])  # halfway the later
    smallest = labels.masked_fill(is_beaten, LARGEST_LABEL).amin(2)  # voxel, as SciPy
    return torch.where(is_beaten.gather(2, nearest)[:, :, 0], smallest, labels.gather(2, nearest)[:, :, 0])
