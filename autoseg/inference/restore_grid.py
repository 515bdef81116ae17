"""From logits on the network's grid back to a label map or probabilities on the grid of the image file.

The way of preprocessing, backwards: resample, undo the crop, undo the change of axes. Only the first step
interpolates. Logits are interpolated and decided strip by strip, so that a label map costs little more than itself.
"""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float, Float32, Int16
from torch import Tensor

from autoseg.inference.resample_logits import Strip, iterate_resampled_strips
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import slice_box
from autoseg.plan import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.resample import find_separate_axis

Location = tuple[slice, slice, slice]


@torch.inference_mode()
def restore_label_map(
    logits: Float[Tensor, "class z y x"],
    geometry: CaseGeometry,
    *,
    labels: LabelScheme,
    resampling: ResamplingPlan,
    strip_bytes: int | None = None,
) -> Int16[np.ndarray, "file_z file_y file_x"]:
    """Internal labels on the grid of the image file; background where preprocessing had cropped.

    Args:
        logits: On the resampled grid, in plan axes; on any device, in any precision.
        geometry: What preprocessing did to this case.
        labels: Whether channels are labels or regions, see `decide_labels`.
        resampling: Order of the interpolation, and when an axis is resampled separately.
        strip_bytes: Upper limit for the interpolated logits that exist at one time (at least one row); None for what
            suits the device.
    """
    volume = np.zeros(geometry.grid.shape_voxels, np.int16)
    cropped = geometry.reorientation.apply(volume)[slice_box(geometry.crop_box)]
    only_highest = not labels.has_regions
    for strip in iterate_strips(logits, geometry, resampling, only_highest=only_highest, strip_bytes=strip_bytes):
        decided = decide_labels(strip.logits, labels)
        if strip.classes is not None:
            decided = strip.classes.to(decided.dtype)[decided.int()]
        cropped[strip.z, strip.rows] = decided.cpu().numpy()
    return volume


def restore_probabilities(
    logits: Float[Tensor, "class z y x"],
    geometry: CaseGeometry,
    *,
    labels: LabelScheme,
    resampling: ResamplingPlan,
    strip_bytes: int | None = None,
) -> Float32[np.ndarray, "class file_z file_y file_x"]:
    """Probabilities on the grid of the image file: softmax over the labels, or one sigmoid per region.

    Where preprocessing had cropped, the background has probability 1, regions have 0. The result is large, one float
    per class and voxel: see `iterate_probabilities`. Arguments as in `restore_label_map`.
    """
    volume = np.empty((len(logits), *geometry.grid.shape_voxels), np.float32)
    slices = iterate_probabilities(logits, geometry, labels=labels, resampling=resampling, strip_bytes=strip_bytes)
    for location, probabilities in slices:
        volume[:, *location] = probabilities
    return volume


@torch.inference_mode()
def iterate_probabilities(
    logits: Float[Tensor, "class z y x"],
    geometry: CaseGeometry,
    *,
    labels: LabelScheme,
    resampling: ResamplingPlan,
    strip_bytes: int | None = None,
) -> Iterator[tuple[Location, Float32[np.ndarray, "class slab_z slab_y slab_x"]]]:
    """Yields the probabilities of `restore_probabilities` slice by slice, each with its place on the grid of the file.

    A slice is one voxel thick along the axis of the file that is the first of the plan. Together they cover the file.
    """
    first, last = geometry.crop_box[0]
    depth, height, width = geometry.uncropped_shape_voxels
    for z in (*range(first), *range(last, depth)):
        yield _locate(z, _make_background(len(logits), height, width, labels), geometry)
    strips = iterate_strips(logits, geometry, resampling, only_highest=False, strip_bytes=strip_bytes)
    inside = slice_box(geometry.crop_box)[1:]
    for z, parts in groupby(strips, key=lambda strip: strip.z):
        plane = _make_background(len(logits), height, width, labels)
        cropped = plane[:, *inside]
        for strip in parts:
            cropped[:, strip.rows] = compute_probabilities(strip.logits, labels).movedim(-1, 0).cpu().numpy()
        yield _locate(first + z, plane, geometry)


def decide_labels(logits: Float[Tensor, "*space class"], labels: LabelScheme) -> Int16[Tensor, "*space"]:
    """The internal label of every voxel.

    Labels: the class with the highest logit, the lowest of them on a tie. Regions: background, overwritten by each
    region whose probability is above one half (logit above 0), in the order of declaration.
    """
    if not labels.has_regions:
        return _find_highest(logits)
    decided = torch.zeros(logits.shape[:-1], dtype=torch.int16, device=logits.device)
    for region, label in zip(logits.unbind(-1), labels.region_write_labels, strict=True):
        decided.masked_fill_(region > 0, label)
    return decided


def compute_probabilities(logits: Float[Tensor, "*space class"], labels: LabelScheme) -> Float[Tensor, "*space class"]:
    """Softmax over the labels, or a sigmoid for each region."""
    return torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, dim=-1)


def decide_from_probabilities(
    probabilities: Float[Tensor, "*space class"], labels: LabelScheme
) -> Int16[Tensor, "*space"]:
    """As `decide_labels`: the highest, or the regions above one half."""
    return decide_labels(probabilities - 0.5 if labels.has_regions else probabilities, labels)


def _find_highest(logits: Tensor) -> Tensor:
    if logits.device.type == "cpu":
        # Several times as fast as torch's, which looks at one number at a time (measured).
        return torch.from_numpy(logits.numpy().argmax(axis=-1).astype(np.int16))
    return logits.max(dim=-1).indices.to(torch.int16)


def _make_background(classes: int, height: int, width: int, labels: LabelScheme) -> Float32[np.ndarray, "class y x"]:
    plane = np.zeros((classes, height, width), np.float32)
    if not labels.has_regions:
        plane[0] = 1
    return plane


def _locate(
    z: int, plane: Float32[np.ndarray, "class y x"], geometry: CaseGeometry
) -> tuple[Location, Float32[np.ndarray, "class slab_z slab_y slab_x"]]:
    """A slice in plan axes, turned to the axes of the file, and its place there."""
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
    only_highest: bool,
    strip_bytes: int | None,
) -> Iterator[Strip]:
    """Yields the logits on the cropped grid of the file, in plan axes, strip by strip.

    Args:
        logits: On the resampled grid.
        geometry: Of the case.
        resampling: Of the configuration.
        only_highest: Leave out classes that are nowhere in a strip the highest.
        strip_bytes: As in `restore_label_map`.
    """
    assert logits.shape[1:] == geometry.resampled_shape_voxels, "these logits belong to another case"
    separate = find_separate_axis(
        geometry.target_spacing_mm, geometry.cropped_spacing_mm, resampling.anisotropy_threshold
    )
    is_nearest = [resampling.logits_order == 0 or axis == separate for axis in range(3)]
    return iterate_resampled_strips(
        logits,
        geometry.cropped_shape_voxels,
        is_nearest=(is_nearest[0], is_nearest[1], is_nearest[2]),
        only_highest=only_highest,
        strip_bytes=strip_bytes,
    )
