"""Random changes of all patches of a batch at once, on the device on which they lie.

Order, probabilities and distributions are those of `autoseg.training.augmentation`, with batchgenerators' transforms as
the reference. What is drawn comes from other generators, so the patches of the two are alike and not equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int16
from torch import Tensor

from autoseg.plan import AugmentationPlan
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.training.device.intensity import change_intensities
from autoseg.training.device.parameters import PatchParameters, is_slice_wise
from autoseg.training.device.resampling import compute_matrices, resample_cuts
from autoseg.training.device.transfer import copy_to_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """Images (batch, channel, space) and label maps (batch, space) of some samples of a batch."""

    image: Float32[Tensor, "batch channel *space"]
    label_map: Int16[Tensor, " batch *space"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAugmentation:
    """Turns cuts into training patches.

    Attributes:
        patch_voxels: Extent of a patch, two or three axes.
        masked_channels: Channels that are zero outside the nonzero region.
    """

    plan: AugmentationPlan
    patch_voxels: tuple[int, ...]
    masked_channels: tuple[int, ...]

    def __call__(self, *, still: Patches, moved: Patches, parameters: PatchParameters) -> Patches:
        """Returns the changed patches in the order of the batch; the label -1 has become background.

        Args:
            still: The samples that are not moved, already as large as the patch.
            moved: The enlarged cuts of the others.
            parameters: Of all samples.
        """
        patches = merge(still, self._move(moved, parameters), parameters.is_moved)
        is_in_plane = is_slice_wise(self.plan, len(self.patch_voxels))
        change_intensities(patches.image, parameters, is_slice_wise=is_in_plane)
        mirrored = mirror(patches, parameters.is_flipped)
        return finish_patches(mirrored, self.masked_channels)

    def _move(self, cuts: Patches, parameters: PatchParameters) -> Patches:
        if len(cuts.image) == 0:
            return cuts
        matrices = compute_matrices(parameters)[parameters.is_moved]
        image, label_map = resample_cuts(cuts.image, cuts.label_map, matrices, self.patch_voxels)
        return Patches(image=image, label_map=label_map)


def merge(still: Patches, moved: Patches, is_moved: np.ndarray) -> Patches:
    """Puts the samples into the order of the batch."""
    if not is_moved.any() or is_moved.all():
        return moved if is_moved.any() else still
    order = np.argsort(np.concatenate([np.flatnonzero(~is_moved), np.flatnonzero(is_moved)]))
    index = copy_to_device(order, still.image.device)
    return Patches(
        image=torch.cat([still.image, moved.image]).index_select(0, index),
        label_map=torch.cat([still.label_map, moved.label_map]).index_select(0, index),
    )


def mirror(patches: Patches, is_flipped: np.ndarray) -> Patches:
    """Flips image and label map of each sample along its own axes."""
    image, label_map = patches.image, patches.label_map
    for axis in np.flatnonzero(is_flipped.any(axis=0)).tolist():
        flag = copy_to_device(is_flipped[:, axis], image.device).view(-1, *(1,) * is_flipped.shape[1])
        image = torch.where(flag[:, None], image.flip(axis + 2), image)
        label_map = torch.where(flag, label_map.flip(axis + 1), label_map)
    return Patches(image=image, label_map=label_map)


def finish_patches(patches: Patches, masked_channels: Sequence[int]) -> Patches:
    """Zeroes the masked channels where the label is -1, then makes that label background."""
    outside = patches.label_map <= OUTSIDE_LABEL
    for channel in masked_channels:
        patches.image[:, channel].masked_fill_(outside, 0)
    return Patches(image=patches.image, label_map=patches.label_map.clamp_min(0))
