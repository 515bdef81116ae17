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
    """Some samples of a batch.

    Attributes:
        label_maps: The reference; behind it, in a cascade, the previous stage's prediction.
    """

    image: Float32[Tensor, "batch channel *space"]
    label_maps: Int16[Tensor, "batch map *space"]


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
        image, label_maps = resample_cuts(cuts.image, cuts.label_maps, matrices, self.patch_voxels)
        return Patches(image=image, label_maps=label_maps)


def merge(still: Patches, moved: Patches, is_moved: np.ndarray) -> Patches:
    """Puts the samples into the order of the batch."""
    if not is_moved.any() or is_moved.all():
        return moved if is_moved.any() else still
    order = np.argsort(np.concatenate([np.flatnonzero(~is_moved), np.flatnonzero(is_moved)]))
    index = copy_to_device(order, still.image.device)
    return Patches(
        image=torch.cat([still.image, moved.image]).index_select(0, index),
        label_maps=torch.cat([still.label_maps, moved.label_maps]).index_select(0, index),
    )


def mirror(patches: Patches, is_flipped: np.ndarray) -> Patches:
    """Flips image and label maps of each sample along its own axes."""
    image, label_maps = patches.image, patches.label_maps
    for axis in np.flatnonzero(is_flipped.any(axis=0)).tolist():
        flag = copy_to_device(is_flipped[:, axis], image.device).view(-1, 1, *(1,) * is_flipped.shape[1])
        image = torch.where(flag, image.flip(axis + 2), image)
        label_maps = torch.where(flag, label_maps.flip(axis + 2), label_maps)
    return Patches(image=image, label_maps=label_maps)


def finish_patches(patches: Patches, masked_channels: Sequence[int]) -> Patches:
    """Zeroes the masked channels where the reference's label is -1, then makes that label background."""
    outside = patches.label_maps[:, 0] <= OUTSIDE_LABEL
    for channel in masked_channels:
        patches.image[:, channel].masked_fill_(outside, 0)
    return Patches(image=patches.image, label_maps=patches.label_maps.clamp_min(0))
