"""Targets that logits are compared with: class masks and valid voxels, at the resolution of an output."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, reduce

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int16
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from autoseg.geometry import locate_centre
from autoseg.labels import LabelScheme
from autoseg.runtime.streams import copy_to_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A label map at one resolution, in the forms that losses need.

    Attributes:
        labels: Softmax over background and labels, or one sigmoid per region; voxels of the ignore label do not count.
        masks: One per class, foreground label or region.
        valid: Voxels that do not carry the ignore label; None where the data has no such label.
        spacing_mm: Distance of neighbouring voxels along each axis.
        maps: Maps that loss terms made of the label map, by name, for further outputs of the same resolution.
    """

    labels: LabelScheme
    label_map: Int16[Tensor, " batch *space"]
    masks: Bool[Tensor, "batch class *space"]
    valid: Bool[Tensor, "batch 1 *space"] | None
    spacing_mm: tuple[float, ...]
    maps: dict[str, Tensor] = field(default_factory=dict)


def build_target(
    label_map: Int16[Tensor, " batch *space"], labels: LabelScheme, *, spacing_mm: tuple[float, ...]
) -> Target:
    """Builds the target of logits that have the extent of the label map."""
    return Target(
        labels=labels,
        label_map=label_map,
        masks=build_class_masks(label_map, labels),
        valid=find_valid_voxels(label_map, labels),
        spacing_mm=spacing_mm,
    )


@cache
def place_table(
    rows: tuple[tuple[int, ...] | tuple[float, ...], ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Copies numbers to a device once: every copy would wait for the device, and could not be part of a CUDA graph."""
    with torch.inference_mode(mode=False):
        return torch.tensor(rows, device=device, dtype=dtype)


def crop_label_map(label_map: Int16[Tensor, " batch ..."], extent_voxels: Sequence[int]) -> Int16[Tensor, " batch ..."]:
    """Crops the label map to the middle of it that the first output of a network covers, which may have a margin."""
    if label_map.shape[1:] == tuple(extent_voxels):
        return label_map
    return label_map[(slice(None), *locate_centre(label_map.shape[1:], extent_voxels))]


def reduce_label_map(
    label_map: Int16[Tensor, " batch ..."], extent_voxels: Sequence[int]
) -> Int16[Tensor, " batch ..."]:
    """Resamples the label map to a coarser grid by the nearest voxel."""
    if label_map.shape[1:] == tuple(extent_voxels):
        return label_map
    with_channel = label_map[:, None].float()
    return functional.interpolate(with_channel, size=tuple(extent_voxels), mode="nearest-exact")[:, 0].to(torch.int16)


def build_class_masks(
    label_map: Int16[Tensor, " batch *space"], labels: LabelScheme
) -> Bool[Tensor, "batch class *space"]:
    """Builds one mask per class of `LabelScheme.class_labels`: foreground labels, or regions."""
    masks = [reduce(torch.logical_or, [label_map == label for label in members]) for members in labels.class_labels]
    return torch.stack(masks, dim=1)


def fill_ignored_voxels(
    label_map: Int16[Tensor, " batch *space"], labels: LabelScheme, *, spacing_mm: tuple[float, ...]
) -> Int16[Tensor, " batch *space"]:
    """Gives every ignored voxel the label of the nearest voxel that has one, in samples that have any.

    For what is encoded as a whole: the voxels do not count in losses, where they stay ignored.

    Args:
        label_map: Internal labels.
        labels: Labels of the network.
        spacing_mm: Distance of neighbouring voxels along each axis.
    """
    if labels.ignore_label is None:
        return label_map
    filled = [_fill_sample(sample, labels.ignore_label, spacing_mm) for sample in label_map.cpu().numpy()]
    return copy_to_device(torch.from_numpy(np.stack(filled)), label_map.device)


def _fill_sample(sample: NDArray[np.int16], ignored: int, spacing_mm: tuple[float, ...]) -> NDArray[np.int16]:
    is_ignored = sample == ignored
    if not is_ignored.any() or is_ignored.all():
        return sample
    nearest = ndimage.distance_transform_edt(
        is_ignored, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    filled: NDArray[np.int16] = sample[tuple(nearest)]
    return filled


def build_output_masks(
    label_map: Int16[Tensor, " batch *space"], labels: LabelScheme
) -> Float32[Tensor, "batch output *space"]:
    """Builds what a perfect network would predict: one mask per output, of background and labels, or of regions.

    Ignored voxels belong to no class.
    """
    masks = build_class_masks(label_map, labels)
    if labels.has_regions:
        return masks.float()
    return torch.cat((~masks.any(dim=1, keepdim=True), masks), dim=1).float()


def find_valid_voxels(
    label_map: Int16[Tensor, " batch *space"], labels: LabelScheme
) -> Bool[Tensor, "batch 1 *space"] | None:
    """Finds the voxels that do not carry the ignore label; None if the data has no such label."""
    return None if labels.ignore_label is None else (label_map != labels.ignore_label)[:, None]
