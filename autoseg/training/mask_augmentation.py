"""Random mistakes in the masks that the second stage of a cascade gets of the first.

They keep the network from copying the masks: a label grows or shrinks, or loses a component. Order, probabilities and
distributions are nnU-Net's, with one difference: there, a radius that is no integer makes a ball of even extent, which
also moves the mask by up to half a voxel; here, balls are centred on their voxel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cc3d
import edt
import numpy as np
from jaxtyping import Bool, Float32, Int16, Integer

from autoseg.plan import AugmentationPlan
from autoseg.stages.previous_input import PreviousStageInput, append_channels

Mask = Bool[np.ndarray, "*space"]
FULL_CONNECTIVITY: Final = {2: 8, 3: 26}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainMasks:
    """Appends the masks as they are."""

    input: PreviousStageInput

    def __call__(
        self, image: Float32[np.ndarray, " channel *space"], previous_label_map: Int16[np.ndarray, "*space"]
    ) -> Float32[np.ndarray, " channel_and_label *space"]:
        """The image with one further channel for each label of the previous stage."""
        return self.input.append_to(image, previous_label_map)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentedMasks:
    """Appends masks with random mistakes; draws from numpy's global generator."""

    input: PreviousStageInput
    plan: AugmentationPlan

    def __call__(
        self, image: Float32[np.ndarray, " channel *space"], previous_label_map: Int16[np.ndarray, "*space"]
    ) -> Float32[np.ndarray, " channel_and_label *space"]:
        """The image with one further channel for each label of the previous stage."""
        masks = self.input.encode(previous_label_map)
        if np.random.uniform() < self.plan.mask_change_probability:
            change_masks(masks, self.plan)
        if np.random.uniform() < self.plan.component_removal_probability:
            remove_components(masks, self.plan)
        return append_channels(image, masks)


def change_masks(masks: Bool[np.ndarray, " label *space"], plan: AugmentationPlan) -> None:
    """Dilates, erodes, opens or closes labels in random order, in place; what a label gains, the others lose."""
    for label in np.random.permutation(len(masks)):
        if np.random.uniform() >= plan.mask_change_label_probability:
            continue
        operation = OPERATIONS[np.random.randint(len(OPERATIONS))]
        radius_voxels = np.random.uniform(*plan.mask_change_radius_voxels)
        if not masks[label].any():
            continue
        changed = operation(masks[label], radius_voxels)
        masks[:, changed & ~masks[label]] = False
        masks[label] = changed


def remove_components(masks: Bool[np.ndarray, " label *space"], plan: AugmentationPlan) -> None:
    """Removes one random small connected component of some labels, in place; background remains."""
    for label in np.random.permutation(len(masks)):
        if np.random.uniform() >= plan.component_removal_label_probability:
            continue
        components, small = find_small_components(masks[label], plan.component_removal_limit_fraction)
        if len(small):
            masks[label][components == np.random.choice(small)] = False


def find_small_components(mask: Mask, limit_fraction: float) -> tuple[Integer[np.ndarray, "*space"], np.ndarray]:
    """The number of the connected component of each voxel, and the numbers of those below a share of the patch."""
    components = cc3d.connected_components(mask, connectivity=FULL_CONNECTIVITY[mask.ndim])
    counts = np.bincount(components.ravel())
    counts[0] = mask.size  # background is no component
    return components, np.flatnonzero(counts < limit_fraction * mask.size)


def dilate(mask: Mask, radius_voxels: float) -> Mask:
    """What is at most the radius away from the mask."""
    grown: Mask = edt.edtsq(~mask) <= radius_voxels**2
    return grown


def erode(mask: Mask, radius_voxels: float) -> Mask:
    """What is further than the radius inside the mask; beyond the patch the mask is taken to go on."""
    shrunk: Mask = edt.edtsq(mask) > radius_voxels**2
    return shrunk


def open_mask(mask: Mask, radius_voxels: float) -> Mask:
    """Without what is thinner than a ball of the radius."""
    return dilate(erode(mask, radius_voxels), radius_voxels)


def close_mask(mask: Mask, radius_voxels: float) -> Mask:
    """With gaps filled that are thinner than a ball of the radius."""
    return erode(dilate(mask, radius_voxels), radius_voxels)


OPERATIONS: Final[tuple[Callable[[Mask, float], Mask], ...]] = (dilate, erode, close_mask, open_mask)
