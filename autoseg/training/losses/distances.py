"""Maps of distances that loss terms make of label maps, on the CPU: signed distances, weights between objects."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Final

import cc3d
import edt
import numpy as np
import torch
from jaxtyping import Bool, Float32, Int16
from scipy import ndimage
from torch import Tensor

from autoseg.runtime.streams import copy_to_device
from autoseg.training.losses.targets import Target

NEIGHBOURS: Final = {2: 8, 3: 26}  # through faces, edges and corners
REACH_SIGMAS: Final = 4.0  # an object that is farther away adds less than exp(-8) = 0.03 % of the border weight


def find_map(target: Target, name: str, compute: Callable[[], np.ndarray]) -> Tensor:
    """Returns a map of a target by its name; computes it the first time."""
    if name not in target.maps:
        target.maps[name] = copy_to_device(torch.from_numpy(compute()), target.label_map.device)
    return target.maps[name]


def compute_signed_distances_mm(target: Target) -> Float32[np.ndarray, "batch class *space"]:
    """Computes the signed distance of every voxel from the boundary of every class.

    Outside, it is the distance from the nearest voxel of the class. Inside, it is minus the distance from the nearest
    voxel that has a neighbour outside through a face; ignored voxels are no such neighbours. A class that is absent
    from the patch, or fills it, has no boundary, and 0 everywhere.
    """
    masks = target.masks.cpu().numpy()
    ignored = np.zeros(masks.shape[:1] + masks.shape[2:], bool)
    if target.valid is not None:
        ignored = ~target.valid[:, 0].cpu().numpy()
    distances = [
        [_compute_signed_distance_mm(mask, unknown, target.spacing_mm) for mask in of_sample]
        for of_sample, unknown in zip(masks, ignored, strict=True)
    ]
    return np.asarray(distances, np.float32)


def _compute_signed_distance_mm(
    mask: Bool[np.ndarray, "*space"], ignored: Bool[np.ndarray, "*space"], spacing_mm: tuple[float, ...]
) -> Float32[np.ndarray, "*space"]:
    covered = mask | ignored
    if not mask.any() or covered.all():
        return np.zeros(mask.shape, np.float32)
    outside = _measure_distance_mm(~mask, spacing_mm)
    inside = _measure_distance_mm(_erode(covered), spacing_mm)
    signed: Float32[np.ndarray, "*space"] = np.where(mask, -inside, outside)
    return signed


def _measure_distance_mm(
    mask: Bool[np.ndarray, "*space"], spacing_mm: tuple[float, ...]
) -> Float32[np.ndarray, "*space"]:
    """Measures the distance of every voxel of the mask from the nearest one outside; the patch's border is not one."""
    distance: Float32[np.ndarray, "*space"] = edt.edt(
        mask, anisotropy=spacing_mm, black_border=False, parallel=torch.get_num_threads()
    )
    return distance


def _erode(mask: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Removes the voxels that have a neighbour outside through a face; beyond the patch, everything is inside."""
    eroded = mask.copy()
    for axis in range(mask.ndim):
        ahead, behind = np.moveaxis(eroded, axis, 0), np.moveaxis(mask, axis, 0)
        ahead[1:] &= behind[:-1]
        ahead[:-1] &= behind[1:]
    return eroded


def compute_border_exponentials(
    target: Target, sigma_mm: float, object_classes: Sequence[int] = ()
) -> Float32[np.ndarray, "batch 1 *space"]:
    """Computes exp(-(d1 + d2) ** 2 / (2 sigma ** 2)) outside of objects, and 0 in them.

    d1, d2: distances from the nearest and the second nearest object. An object is a component of one class.

    Args:
        target: The labels.
        sigma_mm: Sigma of the weights.
        object_classes: Class of the objects of each foreground label, 0 for none; empty: every label is a class.
    """
    label_maps = target.label_map.cpu().numpy()
    if target.valid is not None:
        label_maps = np.where(target.valid[:, 0].cpu().numpy(), label_maps, np.int16(0))
    if object_classes:
        label_maps = np.array((0, *object_classes), np.int16)[label_maps]
    return np.stack([_compute_border_exponential(sample, target.spacing_mm, sigma_mm) for sample in label_maps])[
        :, None
    ]


def _compute_border_exponential(
    label_map: Int16[np.ndarray, "*space"], spacing_mm: tuple[float, ...], sigma_mm: float
) -> Float32[np.ndarray, "*space"]:
    objects = cc3d.connected_components(np.ascontiguousarray(label_map), connectivity=NEIGHBOURS[label_map.ndim])
    nearest, second = (np.full(label_map.shape, np.inf, np.float32) for _ in range(2))
    margins = [ceil(REACH_SIGMAS * sigma_mm / spacing) for spacing in spacing_mm]
    for number, box in enumerate(ndimage.find_objects(objects), start=1):
        around = tuple(
            slice(max(0, cut.start - margin), cut.stop + margin) for cut, margin in zip(box, margins, strict=True)
        )
        distance = _measure_distance_mm(objects[around] != number, spacing_mm)
        distance[distance > REACH_SIGMAS * sigma_mm] = np.inf
        second[around] = np.minimum(second[around], np.maximum(nearest[around], distance))
        nearest[around] = np.minimum(nearest[around], distance)
    weights: Float32[np.ndarray, "*space"] = np.exp(-((nearest + second) ** 2) / (2 * np.float32(sigma_mm) ** 2))
    weights[objects > 0] = 0
    return weights
