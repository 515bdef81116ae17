"""From logits on the network's grid back to a label map or probabilities on the grid of the image file.

The way of preprocessing, backwards: resample, undo the crop, undo the change of axes. Only the first step
interpolates. Logits are interpolated and decided slab by slab, so that a label map costs little more than itself.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, Int16
from torch import Tensor

from autoseg.inference.resample_logits import SLAB_BYTES, iterate_resampled_slabs
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import slice_box
from autoseg.plan import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.resample import find_separate_axis


@torch.inference_mode()
def restore_label_map(
    logits: Float32[Tensor, "class z y x"],
    geometry: CaseGeometry,
    *,
    labels: LabelScheme,
    resampling: ResamplingPlan,
    slab_bytes: int = SLAB_BYTES,
) -> Int16[np.ndarray, "file_z file_y file_x"]:
    """Internal labels on the grid of the image file; background where preprocessing had cropped.

    Args:
        logits: On the resampled grid, in plan axes; on any device.
        geometry: What preprocessing did to this case.
        labels: Whether channels are labels or regions, see `decide_labels`.
        resampling: Order of the interpolation, and when an axis is resampled separately.
        slab_bytes: Upper limit for the interpolated logits that exist at one time (at least one slice).
    """
    volume = np.zeros(geometry.uncropped_shape_voxels, np.int16)
    cropped = volume[slice_box(geometry.crop_box)]
    for rows, slab in _iterate_slabs(logits, geometry, resampling, slab_bytes=slab_bytes):
        cropped[rows] = decide_labels(slab, labels).cpu().numpy()
    return np.ascontiguousarray(geometry.reorientation.inverse.apply(volume))


@torch.inference_mode()
def restore_probabilities(
    logits: Float32[Tensor, "class z y x"],
    geometry: CaseGeometry,
    *,
    labels: LabelScheme,
    resampling: ResamplingPlan,
    slab_bytes: int = SLAB_BYTES,
) -> Float32[np.ndarray, "class file_z file_y file_x"]:
    """Probabilities on the grid of the image file: softmax over the labels, or one sigmoid per region.

    Where preprocessing had cropped, the background has probability 1, regions have 0. The result is large: one float
    per class and voxel. Arguments as in `restore_label_map`.
    """
    volume = np.zeros((len(logits), *geometry.uncropped_shape_voxels), np.float32)
    if not labels.has_regions:
        volume[0] = 1
    cropped = volume[:, *slice_box(geometry.crop_box)]
    for rows, slab in _iterate_slabs(logits, geometry, resampling, slab_bytes=slab_bytes):
        probabilities = torch.sigmoid(slab) if labels.has_regions else torch.softmax(slab, dim=0)
        cropped[:, rows] = probabilities.cpu().numpy()
    return np.ascontiguousarray(geometry.reorientation.inverse.apply(volume))


def decide_labels(logits: Float32[Tensor, "class z y x"], labels: LabelScheme) -> Int16[Tensor, "z y x"]:
    """The internal label of every voxel.

    Labels: the channel with the highest logit, the lowest of them on a tie. Regions: background, overwritten by each
    region whose probability is above one half (logit above 0), in the order of declaration.
    """
    if not labels.has_regions:
        return logits.max(dim=0).indices.to(torch.int16)
    decided = torch.zeros(logits.shape[1:], dtype=torch.int16, device=logits.device)
    for region, label in zip(logits, labels.region_write_labels, strict=True):
        decided.masked_fill_(region > 0, label)
    return decided


def _iterate_slabs(
    logits: Tensor, geometry: CaseGeometry, resampling: ResamplingPlan, *, slab_bytes: int
) -> Iterator[tuple[slice, Tensor]]:
    assert logits.shape[1:] == geometry.resampled_shape_voxels, "these logits belong to another case"
    separate = find_separate_axis(
        geometry.target_spacing_mm, geometry.cropped_spacing_mm, resampling.anisotropy_threshold
    )
    is_nearest = [resampling.logits_order == 0 or axis == separate for axis in range(3)]
    return iterate_resampled_slabs(
        logits,
        geometry.cropped_shape_voxels,
        is_nearest=(is_nearest[0], is_nearest[1], is_nearest[2]),
        slab_bytes=slab_bytes,
    )
