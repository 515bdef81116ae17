"""Masks of a previous stage that grow or shrink: dilated, eroded, closed or opened by a ball.

This, and the removal of components, keep a network from copying the masks. Order, probabilities and distributions are
nnU-Net's, with one difference: there, a radius that is no integer makes a ball of even extent, which also moves the
mask by up to half a voxel; here, balls are centred on their voxel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import edt
import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from autoseg.plan.augmentation import MaskMorphologyPlan
from autoseg.training.augmentation.masks import draw_for_masks, encode_masks, join_masks, split_masks, write_masks
from autoseg.training.augmentation.tensors.rows import to_column
from autoseg.training.augmentation.tensors.transfer import copy_to_device
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Mask = Bool[np.ndarray, "*space"]
Masks = Bool[Tensor, "row *space"]
DILATE, ERODE, CLOSE, OPEN = range(4)
FAR: Final = 1 << 29  # above any squared distance within a patch; a squared distance more still fits into 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class MorphologyParameters:
    """Random morphological operations on the masks of a batch.

    Attributes:
        order: Order in which the labels are changed.
        is_changed: Whether the mask of a label is changed.
        operation: DILATE, ERODE, CLOSE or OPEN.
        radius_voxels: Radius of the operation.
    """

    order: Int64[np.ndarray, "batch label"]
    is_changed: Bool[np.ndarray, "batch label"]
    operation: Int64[np.ndarray, "batch label"]
    radius_voxels: Float64[np.ndarray, "batch label"]


@dataclass(frozen=True, kw_only=True)
class MaskMorphology(DeviceTransform[MorphologyParameters]):
    """Carries out "mask_morphology"."""

    plan: MaskMorphologyPlan

    def change_sample(self, sample: Sample) -> None:
        """Changes the masks of some labels."""
        if sample.previous_label_map is None or np.random.uniform() >= self.plan.probability:
            return
        masks = encode_masks(sample.previous_label_map, self.foreground_labels)
        change_masks(masks, self.plan)
        write_masks(sample.previous_label_map, masks, self.foreground_labels)

    def draw(self, draws: SampleDraws) -> MorphologyParameters:
        """Draws which labels are changed, how, and in which order."""
        drawn = draw_for_masks(draws, len(self.foreground_labels), occurrence=self.occurrence)
        is_sample_changed = drawn.morphology < self.plan.probability
        lower, upper = self.plan.radius_range_voxels
        return MorphologyParameters(
            order=drawn.order,
            is_changed=is_sample_changed & (drawn.label_morphology < self.plan.label_probability),
            operation=drawn.operation,
            radius_voxels=lower + (upper - lower) * drawn.radius,
        )

    def change_patches(self, patches: Patches, parameters: MorphologyParameters, *arrays: Tensor) -> Patches:
        """Changes the masks of some labels of some samples."""
        if patches.label_maps.shape[1] == 1 or not parameters.is_changed.any():
            return patches
        masks = split_masks(patches.label_maps[:, 1], self.foreground_labels)
        change_masks_of_batch(masks, parameters)
        changed = join_masks(patches.label_maps[:, 1], masks, self.foreground_labels)
        return Patches(image=patches.image, label_maps=torch.stack([patches.label_maps[:, 0], changed], dim=1))


def change_masks(masks: Bool[np.ndarray, " label *space"], plan: MaskMorphologyPlan) -> None:
    """Dilates, erodes, opens or closes labels in random order, in place; what a label gains, the others lose. Draws
    from numpy's global generator."""
    for label in np.random.permutation(len(masks)):
        if np.random.uniform() >= plan.label_probability:
            continue
        operation = OPERATIONS[np.random.randint(len(OPERATIONS))]
        radius_voxels = np.random.uniform(*plan.radius_range_voxels)
        if not masks[label].any():
            continue
        changed = operation(masks[label], radius_voxels)
        masks[:, changed & ~masks[label]] = False
        masks[label] = changed


def dilate(mask: Mask, radius_voxels: float) -> Mask:
    """Returns the voxels at most the radius away from the mask."""
    grown: Mask = edt.edtsq(~mask) <= radius_voxels**2
    return grown


def erode(mask: Mask, radius_voxels: float) -> Mask:
    """Returns the voxels further than the radius inside the mask, which is assumed to continue beyond the patch."""
    shrunk: Mask = edt.edtsq(mask) > radius_voxels**2
    return shrunk


def open_mask(mask: Mask, radius_voxels: float) -> Mask:
    """Removes parts thinner than a ball of the radius."""
    return dilate(erode(mask, radius_voxels), radius_voxels)


def close_mask(mask: Mask, radius_voxels: float) -> Mask:
    """Fills gaps thinner than a ball of the radius."""
    return erode(dilate(mask, radius_voxels), radius_voxels)


OPERATIONS: Final[tuple[Callable[[Mask, float], Mask], ...]] = (dilate, erode, close_mask, open_mask)


def change_masks_of_batch(masks: Bool[Tensor, "batch label *space"], parameters: MorphologyParameters) -> None:
    """Does as `change_masks` on a device for all samples, in place, by exact squared distances along one axis after the
    other."""
    batch, label_count = masks.shape[:2]
    rows = masks.view(batch * label_count, *masks.shape[2:])
    for turn in range(label_count):
        labels = parameters.order[:, turn]
        samples = np.flatnonzero(parameters.is_changed[np.arange(batch), labels])
        if len(samples) == 0:
            continue
        where = samples, labels[samples]
        index = copy_to_device(samples * label_count + labels[samples], masks.device)
        before = rows.index_select(0, index)
        after = apply_operations(before, parameters.operation[where], parameters.radius_voxels[where])
        sample_index = copy_to_device(samples, masks.device)
        others = masks.index_select(0, sample_index) & ~(after & ~before)[:, None]
        masks.index_copy_(0, sample_index, others)
        rows.index_copy_(0, index, after)


def apply_operations(
    masks: Masks, operations: Int64[np.ndarray, " row"], radii_voxels: Float64[np.ndarray, " row"]
) -> Masks:
    """Dilates, erodes, closes or opens each mask with a ball; masks are assumed to continue beyond the patch."""
    changed = _grow_or_shrink(masks, np.isin(operations, (ERODE, OPEN)), radii_voxels)
    again = np.flatnonzero(np.isin(operations, (CLOSE, OPEN)))
    if len(again) == 0:
        return changed
    index = copy_to_device(again, masks.device)
    second = _grow_or_shrink(changed.index_select(0, index), operations[again] == CLOSE, radii_voxels[again])
    return changed.index_copy_(0, index, second)


def _grow_or_shrink(masks: Masks, is_shrunk: Bool[np.ndarray, " row"], radii_voxels: np.ndarray) -> Masks:
    """Grows masks, or shrinks them by growing their complement."""
    flags = to_column(is_shrunk, masks)
    return grow(masks ^ flags, radii_voxels) ^ flags


def grow(masks: Masks, radii_voxels: Float64[np.ndarray, " row"]) -> Masks:
    """Returns the voxels of the patch at most the radius away from each mask."""
    squared = torch.where(masks, 0, FAR).to(torch.int32)
    for axis in range(1, masks.ndim):
        squared = _spread(squared, axis, reach=int(radii_voxels.max()))
    limits = np.floor(radii_voxels**2).astype(np.int32)  # squared distances between voxels are integers
    return squared <= to_column(limits, masks)


def _spread(squared: Tensor, axis: int, *, reach: int) -> Tensor:
    """Computes the smallest sum of a value along an axis and the squared distance to its position."""
    extent = squared.shape[axis]
    nearest = squared.clone()
    for step in range(1, min(reach, extent - 1) + 1):
        length = extent - step
        further = squared + step * step
        for target, source in ((step, 0), (0, step)):
            part = nearest.narrow(axis, target, length)
            part.copy_(torch.minimum(part, further.narrow(axis, source, length)))
    return nearest
