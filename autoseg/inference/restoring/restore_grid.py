"""Restores label maps and probabilities on the grid of the image file from logits on the network's grid.

This inverts preprocessing: resample, undo the crop, undo the change of axes. Only the first step interpolates. Logits
are interpolated and decoded strip by strip, so that a label map needs little more memory than itself.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from typing import Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int16, UInt8
from torch import Tensor

from autoseg.inference.restoring.decoding import compute_probabilities
from autoseg.inference.restoring.resample_labels import iterate_label_slabs
from autoseg.inference.restoring.resample_logits import Strip, get_strip_bytes, iterate_resampled_strips
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import slice_box
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.resample import find_separate_axis
from autoseg.runtime.device import is_out_of_memory

Location = tuple[slice, slice, slice]
Restored = TypeVar("Restored")

RESTORING: Final = "restoring the grid of the image"

logger = logging.getLogger(__name__)


def retry_with_logits_in_ram(
    work: Callable[[Sequence[Tensor]], Restored], logits: Sequence[Tensor], *, purpose: str = RESTORING
) -> Restored:
    """Makes something of logits, and again with the logits in RAM if their device is out of memory.

    Args:
        work: Computes on the device of the logits.
        logits: Logits of each model.
        purpose: Name of the work in the warning, to be followed by "on the CPU".
    """
    try:
        return work(logits)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error) or all(part.device.type == "cpu" for part in logits):
            raise
    logger.warning("the device ran out of memory; %s on the CPU", purpose)
    return work([part.cpu() for part in logits])


def iterate_with_logits_in_ram(
    work: Callable[[Sequence[Tensor]], Iterator[Restored]], logits: Sequence[Tensor]
) -> Iterator[Restored]:
    """Yields what `work` yields; if the device is out of memory, the rest from logits in RAM."""
    count = 0
    try:
        for part in work(logits):
            yield part
            count += 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error) or all(part.device.type == "cpu" for part in logits):
            raise
    else:
        return
    logger.warning("the device ran out of memory; %s on the CPU", RESTORING)
    yield from islice(work([part.cpu() for part in logits]), count, None)


@torch.inference_mode()
def restore_label_map(
    logits: Float[Tensor, "class z y x"],
    geometry: CaseGeometry,
    *,
    labels: LabelScheme,
    resampling: ResamplingPlan,
    chunk_bytes: int | None = None,
) -> Int16[np.ndarray, "file_z file_y file_x"]:
    """Restores internal labels on the grid of the image file; background outside of the crop.

    Args:
        logits: Logits on the resampled grid, in plan axes; on any device, in any precision.
        geometry: The geometry of the preprocessed case.
        labels: The label scheme, see `decode_labels`.
        resampling: The resampling of the plan.
        chunk_bytes: Size of the logits that are interpolated at a time, see `iterate_label_slabs`.
    """

    def restore(parts: Sequence[Tensor]) -> Int16[np.ndarray, "file_z file_y file_x"]:
        volume = np.zeros(geometry.grid.shape_voxels, np.int16)
        cropped = geometry.reorientation.apply(volume)[slice_box(geometry.crop_box)]
        is_nearest = _find_nearest_axes(parts[0], geometry, resampling)
        slabs = iterate_label_slabs(
            parts[0], geometry.cropped_shape_voxels, labels, is_nearest=is_nearest, chunk_bytes=chunk_bytes
        )
        for slices, slab in slabs:
            cropped[slices] = slab.cpu().numpy()
        return volume

    return retry_with_logits_in_ram(restore, [logits])


def restore_probabilities(
    logits: Float[Tensor, "class z y x"],
    geometry: CaseGeometry,
    *,
    labels: LabelScheme,
    resampling: ResamplingPlan,
    strip_bytes: int | None = None,
) -> Float32[np.ndarray, "class file_z file_y file_x"]:
    """Restores probabilities on the grid of the image file: softmax over the labels, or one sigmoid per region.

    Outside of the crop, the background has probability 1, regions have 0. The result is large, one float
    per class and voxel: see `iterate_probabilities`. Arguments as in `restore_label_map` and `iterate_strips`.
    """
    volume = np.empty((len(logits), *geometry.grid.shape_voxels), np.float32)
    slices = iterate_probabilities(logits, geometry, labels=labels, resampling=resampling, strip_bytes=strip_bytes)
    for location, probabilities in slices:
        volume[:, *location] = probabilities
    return volume


@torch.inference_mode()
def restore_maps(
    maps: Float[Tensor, "map z y x"],
    geometry: CaseGeometry,
    *,
    resampling: ResamplingPlan,
) -> UInt8[np.ndarray, "map file_z file_y file_x"]:
    """Restores maps of values from 0 to 1 on the grid of the image file, as integers from 0 to 255; 0 outside the crop.

    Arguments as in `restore_label_map`.
    """

    def restore(parts: Sequence[Tensor]) -> UInt8[np.ndarray, "map file_z file_y file_x"]:
        volumes = np.zeros((len(maps), *geometry.grid.shape_voxels), np.uint8)
        inside = slice_box(geometry.crop_box)
        cropped = [geometry.reorientation.apply(volume)[inside] for volume in volumes]
        for strip in iterate_strips(parts[0], geometry, resampling, strip_bytes=None):
            values = (255 * strip.logits).round().clamp(0, 255).to(torch.uint8).movedim(-1, 0).cpu().numpy()
            for target, source in zip(cropped, values, strict=True):
                target[strip.z, strip.rows] = source
        return volumes

    return retry_with_logits_in_ram(restore, [maps])


@torch.inference_mode()
def iterate_probabilities(
    logits: Float[Tensor, "class z y x"],
    geometry: CaseGeometry,
    *,
    labels: LabelScheme,
    resampling: ResamplingPlan,
    strip_bytes: int | None = None,
) -> Iterator[tuple[Location, Float32[np.ndarray, "class slab_z slab_y slab_x"]]]:
    """Yields the probabilities of `restore_probabilities` slice by slice with their location on the grid of the file.

    A slice is one voxel thick along the axis of the file that is the first of the plan. Together they cover the file.
    """
    first, last = geometry.crop_box[0]
    depth, height, width = geometry.uncropped_shape_voxels
    for z in (*range(first), *range(last, depth)):
        yield _locate(z, _make_background(len(logits), height, width, labels), geometry)
    strips = iterate_strips(logits, geometry, resampling, strip_bytes=strip_bytes)
    inside = slice_box(geometry.crop_box)[1:]
    for z, parts in groupby(strips, key=lambda strip: strip.z):
        plane = _make_background(len(logits), height, width, labels)
        cropped = plane[:, *inside]
        for strip in parts:
            cropped[:, strip.rows] = compute_probabilities(strip.logits, labels).movedim(-1, 0).cpu().numpy()
        yield _locate(first + z, plane, geometry)


def _make_background(classes: int, height: int, width: int, labels: LabelScheme) -> Float32[np.ndarray, "class y x"]:
    plane = np.zeros((classes, height, width), np.float32)
    if not labels.has_regions:
        plane[0] = 1
    return plane


def _locate(
    z: int, plane: Float32[np.ndarray, "class y x"], geometry: CaseGeometry
) -> tuple[Location, Float32[np.ndarray, "class slab_z slab_y slab_x"]]:
    """Reorients a slice from plan axes to the axes of the file, and returns its location there."""
    reorientation = geometry.reorientation
    axis, is_flipped = reorientation.permutation[0], reorientation.is_flipped[0]
    index = geometry.grid.shape_voxels[axis] - 1 - z if is_flipped else z
    place = [slice(None)] * 3
    place[axis] = slice(index, index + 1)
    return (place[0], place[1], place[2]), reorientation.inverse.apply(plane[:, None])


def iterate_strips(
    logits: Tensor,
    geometry: CaseGeometry,
    resampling: ResamplingPlan,
    *,
    strip_bytes: int | None,
) -> Iterator[Strip]:
    """Yields the logits on the cropped grid of the file, in plan axes, strip by strip.

    Args:
        logits: Logits on the resampled grid.
        geometry: The geometry of the case.
        resampling: The resampling of the configuration.
        strip_bytes: Upper limit for the interpolated logits that exist at a time (at least one row); None for the
            default of the device.
    """
    return iterate_resampled_strips(
        logits,
        geometry.cropped_shape_voxels,
        is_nearest=_find_nearest_axes(logits, geometry, resampling),
        strip_bytes=strip_bytes,
    )


def iterate_mean_probabilities(
    logits: Sequence[Float[Tensor, "class _z _y _x"]],
    geometries: Sequence[CaseGeometry],
    resamplings: Sequence[ResamplingPlan],
    *,
    labels: LabelScheme,
    strip_bytes: int | None = None,
    compute: Callable[[Tensor, LabelScheme], Tensor] = compute_probabilities,
) -> Iterator[tuple[int, slice, Float32[Tensor, "row new_x class"]]]:
    """Yields slice, rows and mean probabilities of one or more models on the cropped grid of the file, in plan axes.

    Args:
        logits: Logits of each model on its own grid.
        geometries: Geometry of the case for each model; the crop is the same for all.
        resamplings: Resampling of each model.
        labels: Label scheme of all models.
        strip_bytes: Upper limit for the interpolated logits of a model that exist at a time (at least one row); None
            for the default of the devices.
        compute: Computes the probabilities of a strip.
    """
    assert all(geometry.crop_box == geometries[0].crop_box for geometry in geometries), "of another image"
    limit = strip_bytes or get_strip_bytes(logits)
    of_models = [iterate_strips(*part, strip_bytes=limit) for part in zip(logits, geometries, resamplings, strict=True)]
    for strips in zip(*of_models, strict=True):
        total = compute(strips[0].logits, labels)
        for strip in strips[1:]:
            total += compute(strip.logits, labels).to(total.device)
        yield strips[0].z, strips[0].rows, total / len(strips)


def _find_nearest_axes(logits: Tensor, geometry: CaseGeometry, resampling: ResamplingPlan) -> tuple[bool, bool, bool]:
    assert logits.shape[1:] == geometry.resampled_shape_voxels, "these logits belong to another case"
    separate = find_separate_axis(
        geometry.target_spacing_mm, geometry.cropped_spacing_mm, resampling.anisotropy_threshold
    )
    z, y, x = (resampling.logits_order == 0 or axis == separate for axis in range(3))
    return z, y, x
