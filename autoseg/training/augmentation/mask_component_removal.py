"""Masks of a previous stage that lose one small connected component each.

On a device, components are looked for on the CPU, in the few masks that lose one: the thread that makes the batch waits
for them, the network does not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Integer
from torch import Tensor

from autoseg.nonzero_region import FULL_CONNECTIVITY, connect_voxels
from autoseg.plan.augmentation import MaskComponentRemovalPlan
from autoseg.training.augmentation.masks import draw_for_masks, encode_masks, join_masks, split_masks, write_masks
from autoseg.training.augmentation.tensors.transfer import move_to_device
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Mask = Bool[np.ndarray, "*space"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalParameters:
    """Random choice of the masks of a batch that lose a component, and of the component.

    Attributes:
        is_reduced: Whether the mask of a label loses a component.
        choice: Index of the removed component among the small ones, as a share of their number; 0 to below 1.
    """

    is_reduced: Bool[np.ndarray, "batch label"]
    choice: Float64[np.ndarray, "batch label"]


@dataclass(frozen=True, kw_only=True)
class MaskComponentRemoval(DeviceTransform[RemovalParameters]):
    """Carries out "mask_component_removal"."""

    plan: MaskComponentRemovalPlan

    def change_sample(self, sample: Sample) -> None:
        """Removes a component of the masks of some labels."""
        if sample.previous_label_map is None or np.random.uniform() >= self.plan.probability:
            return
        masks = encode_masks(sample.previous_label_map, self.foreground_labels)
        remove_components(masks, self.plan)
        write_masks(sample.previous_label_map, masks, self.foreground_labels)

    def draw(self, draws: SampleDraws) -> RemovalParameters:
        """Draws which labels lose a component."""
        drawn = draw_for_masks(draws, len(self.foreground_labels), occurrence=self.occurrence)
        is_reduced = (drawn.removal < self.plan.probability) & (drawn.label_removal < self.plan.label_probability)
        return RemovalParameters(is_reduced=is_reduced, choice=drawn.choice)

    def change_patches(self, patches: Patches, parameters: RemovalParameters, *arrays: Tensor) -> Patches:
        """Removes a component of the masks of some labels of some samples."""
        if patches.label_maps.shape[1] == 1 or not parameters.is_reduced.any():
            return patches
        masks = split_masks(patches.label_maps[:, 1], self.foreground_labels)
        remove_components_of_batch(masks, parameters, self.plan.limit_fraction)
        changed = join_masks(patches.label_maps[:, 1], masks, self.foreground_labels)
        return Patches(image=patches.image, label_maps=torch.stack([patches.label_maps[:, 0], changed], dim=1))


def remove_components(masks: Bool[np.ndarray, " label *space"], plan: MaskComponentRemovalPlan) -> None:
    """Removes one random small connected component of some labels, in place; background remains. Draws from numpy's
    global generator."""
    for label in np.random.permutation(len(masks)):
        if np.random.uniform() >= plan.label_probability:
            continue
        components, small = find_small_components(masks[label], plan.limit_fraction)
        if len(small):
            masks[label][components == np.random.choice(small)] = False


def find_small_components(mask: Mask, limit_fraction: float) -> tuple[Integer[np.ndarray, "*space"], np.ndarray]:
    """Numbers the connected components, and lists those that are smaller than a share of the patch."""
    components = connect_voxels(mask, connectivity=FULL_CONNECTIVITY[mask.ndim])
    counts = np.bincount(components.ravel())
    counts[0] = mask.size  # background is no component
    return components, np.flatnonzero(counts < limit_fraction * mask.size)


def remove_components_of_batch(
    masks: Bool[Tensor, "batch label *space"], parameters: RemovalParameters, limit_fraction: float
) -> None:
    """Removes one small connected component of some masks, in place."""
    for sample, label in np.argwhere(parameters.is_reduced).tolist():
        mask = masks[sample, label]
        components, small = find_small_components(mask.cpu().numpy(), limit_fraction)
        if len(small):
            chosen = small[int(parameters.choice[sample, label] * len(small))]
            mask &= move_to_device(torch.from_numpy(components != chosen), masks.device)
