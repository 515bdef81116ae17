"""Flipping of image and label maps along each allowed axis with probability one half."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from autoseg.plan.augmentation import MirrorPlan
from autoseg.training.augmentation.tensors.transfer import copy_to_device
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Flips = Bool[np.ndarray, "batch axis"]


@dataclass(frozen=True, kw_only=True)
class Mirror(DeviceTransform[Flips]):
    """Carries out "mirror"."""

    plan: MirrorPlan

    def change_sample(self, sample: Sample) -> None:
        """Flips all arrays alike. The draws are those of batchgenerators' transform, which also decides per sample."""
        np.random.uniform()
        flipped = [axis for axis in sorted(self.plan.axes) if np.random.uniform() < 0.5]
        if not flipped:
            return
        axes = tuple(axis - len(self.patch_voxels) for axis in flipped)
        sample.image = np.ascontiguousarray(np.flip(sample.image, axes))
        sample.label_map = np.ascontiguousarray(np.flip(sample.label_map, axes))
        if sample.previous_label_map is not None:
            sample.previous_label_map = np.ascontiguousarray(np.flip(sample.previous_label_map, axes))

    def draw(self, draws: SampleDraws) -> Flips:
        """Draws which axes are flipped."""
        dimensions = len(self.patch_voxels)
        is_allowed = np.isin(np.arange(dimensions), self.plan.axes)
        return np.stack([(generator.random(dimensions) < 0.5) & is_allowed for generator in draws.generators])

    def change_patches(self, patches: Patches, parameters: Flips) -> Patches:
        """Flips image and label maps of each sample along its own axes."""
        image, label_maps = patches.image, patches.label_maps
        for axis in np.flatnonzero(parameters.any(axis=0)).tolist():
            flag = copy_to_device(parameters[:, axis], image.device).view(-1, 1, *(1,) * parameters.shape[1])
            image = torch.where(flag, image.flip(axis + 2), image)
            label_maps = torch.where(flag, label_maps.flip(axis + 2), label_maps)
        return Patches(image=image, label_maps=label_maps)
