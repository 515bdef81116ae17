"""Flipping of image and label maps along each allowed axis with probability one half."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from autoseg.plan.augmentation import MirrorPlan
from autoseg.training.augmentation.tensors.rows import combine_axes
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
        return (draws.random(dimensions) < 0.5) & is_allowed

    def list_arrays(self, parameters: Flips) -> tuple[np.ndarray, ...]:
        """Lists which voxel each voxel of a flipped patch shows, as one part of its flat index for each axis."""
        extents = self.patch_voxels
        strides = np.cumprod((1, *extents[:0:-1]))[::-1].tolist()
        places = (np.arange(extent) for extent in extents)
        return tuple(
            np.where(parameters[:, axis, None], extents[axis] - 1 - along, along) * strides[axis]
            for axis, along in enumerate(places)
        )

    def change_patches(self, patches: Patches, parameters: Flips, *arrays: Tensor) -> Patches:
        """Flips image and label maps of each sample along its own axes."""
        index = combine_axes(arrays).flatten(1)[:, None]
        return Patches(image=_reorder(patches.image, index), label_maps=_reorder(patches.label_maps, index))


def _reorder(values: Shaped[Tensor, "batch part *space"], index: Int64[Tensor, "batch 1 voxel"]) -> Tensor:
    flat = values.flatten(2)
    return flat.gather(2, index.expand(flat.shape)).view(values.shape)
