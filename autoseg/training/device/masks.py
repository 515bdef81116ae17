"""Masks of a cascade's first stage with random mistakes, of all patches of a batch at once, on the device.

Order, probabilities and distributions are those of `autoseg.training.mask_augmentation`, operators and components
included; what is drawn comes from the samples' own generators. Growing and shrinking, by balls of any radius, are exact
squared distances, found along one axis after the other. Components are looked for on the processor, in the few masks
that lose one: the thread that makes the batch waits for them, the network does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int16, Int64, Shaped
from torch import Tensor

from autoseg.plan import AugmentationPlan
from autoseg.stages.previous_input import PreviousStageInput
from autoseg.training.device.parameters import build_generator
from autoseg.training.device.transfer import copy_to_device, move_to_device
from autoseg.training.mask_augmentation import find_small_components

# Distinguishes these draws from those of other changes, which have the same seeds.
SPAWN_KEY: Final = (2,)
DILATE, ERODE, CLOSE, OPEN = range(4)
FAR: Final = 1 << 29  # above any squared distance within a patch; a squared distance more still fits into 32 bits

Masks = Bool[Tensor, "row *space"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskParameters:
    """How the masks of a batch are changed.

    Attributes:
        order: In which the labels are changed.
        is_changed: Whether the mask of a label grows or shrinks.
        operation: DILATE, ERODE, CLOSE or OPEN.
        radius_voxels: By how much.
        is_reduced: Whether the mask of a label loses a component.
        choice: Which of its small components, as a share of their number; 0 to below 1.
    """

    order: Int64[np.ndarray, "batch label"]
    is_changed: Bool[np.ndarray, "batch label"]
    operation: Int64[np.ndarray, "batch label"]
    radius_voxels: Float64[np.ndarray, "batch label"]
    is_reduced: Bool[np.ndarray, "batch label"]
    choice: Float64[np.ndarray, "batch label"]


def draw_mask_parameters(
    plan: AugmentationPlan, seeds: Sequence[np.random.SeedSequence], label_count: int
) -> MaskParameters:
    """Draws for every sample of a batch from its own seeds."""
    drawn = [_draw_sample(plan, build_generator(sample, SPAWN_KEY), label_count) for sample in seeds]
    names = [field.name for field in fields(MaskParameters)]
    return MaskParameters(**{name: np.stack([values[name] for values in drawn]) for name in names})


def _draw_sample(plan: AugmentationPlan, generator: np.random.Generator, labels: int) -> dict[str, np.ndarray]:
    """Draws everything, used or not, so that no value depends on another decision."""
    is_any_changed = generator.random() < plan.mask_change_probability
    is_any_reduced = generator.random() < plan.component_removal_probability
    return {
        "order": generator.permutation(labels),
        "is_changed": is_any_changed & (generator.random(labels) < plan.mask_change_label_probability),
        "operation": generator.integers(OPEN, size=labels, endpoint=True),
        "radius_voxels": generator.uniform(*plan.mask_change_radius_voxels, size=labels),
        "is_reduced": is_any_reduced & (generator.random(labels) < plan.component_removal_label_probability),
        "choice": generator.random(labels),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMasks:
    """Makes channels of what the first stage predicts.

    Attributes:
        input: What the channels are.
        plan: Of the mistakes; None: the masks stay as they are.
    """

    input: PreviousStageInput
    plan: AugmentationPlan | None

    def __call__(
        self, previous_label_map: Int16[Tensor, " batch *space"], seeds: Sequence[np.random.SeedSequence]
    ) -> Shaped[Tensor, "batch extra *space"]:
        """The masks of finished patches, whose samples have these seeds."""
        masks = torch.stack(list(self.input.list_channels(previous_label_map)), dim=1)
        if self.plan is not None:
            parameters = draw_mask_parameters(self.plan, seeds, masks.shape[1])
            change_masks(masks, parameters)
            remove_components(masks, parameters, self.plan.component_removal_limit_fraction)
        return masks


def change_masks(masks: Bool[Tensor, "batch label *space"], parameters: MaskParameters) -> None:
    """Lets masks grow and shrink, in place; what a label gains, the others of its sample lose."""
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
    """Dilates, erodes, closes or opens each mask with a ball; beyond the patch every mask is taken to go on."""
    changed = _grow_or_shrink(masks, np.isin(operations, (ERODE, OPEN)), radii_voxels)
    again = np.flatnonzero(np.isin(operations, (CLOSE, OPEN)))
    if len(again) == 0:
        return changed
    index = copy_to_device(again, masks.device)
    second = _grow_or_shrink(changed.index_select(0, index), operations[again] == CLOSE, radii_voxels[again])
    return changed.index_copy_(0, index, second)


def _grow_or_shrink(masks: Masks, is_shrunk: Bool[np.ndarray, " row"], radii_voxels: np.ndarray) -> Masks:
    """To shrink a mask is to grow what is not in it."""
    flags = _to_column(is_shrunk, masks)
    return grow(masks ^ flags, radii_voxels) ^ flags


def grow(masks: Masks, radii_voxels: Float64[np.ndarray, " row"]) -> Masks:
    """What is at most the radius away from each mask, within the patch."""
    squared = torch.where(masks, 0, FAR).to(torch.int32)
    for axis in range(1, masks.ndim):
        squared = _spread(squared, axis, reach=int(radii_voxels.max()))
    limits = np.floor(radii_voxels**2).astype(np.int32)  # squared distances between voxels are integers
    return squared <= _to_column(limits, masks)


def _spread(squared: Tensor, axis: int, *, reach: int) -> Tensor:
    """The smallest sum of a value along an axis and the squared distance to its place."""
    extent = squared.shape[axis]
    nearest = squared.clone()
    for step in range(1, min(reach, extent - 1) + 1):
        length = extent - step
        further = squared + step * step
        for target, source in ((step, 0), (0, step)):
            part = nearest.narrow(axis, target, length)
            part.copy_(torch.minimum(part, further.narrow(axis, source, length)))
    return nearest


def remove_components(
    masks: Bool[Tensor, "batch label *space"], parameters: MaskParameters, limit_fraction: float
) -> None:
    """Removes one small connected component of some masks, in place."""
    for sample, label in np.argwhere(parameters.is_reduced).tolist():
        mask = masks[sample, label]
        components, small = find_small_components(mask.cpu().numpy(), limit_fraction)
        if len(small):
            chosen = small[int(parameters.choice[sample, label] * len(small))]
            mask &= move_to_device(torch.from_numpy(components != chosen), masks.device)


def _to_column(values: np.ndarray, rows: Tensor) -> Tensor:
    """One value for each row, to be broadcast over it."""
    return copy_to_device(values, rows.device).view(-1, *(1,) * (rows.ndim - 1))
