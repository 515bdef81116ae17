"""Gaussian blur with a standard deviation per channel and axis.

batchgenerators' kernel reaches 4 standard deviations and mirrors the border about its edge; the torch transforms that
nnU-Net uses today reach about 3 and mirror about the centre of the outermost voxel.
"""

from dataclasses import dataclass

import numpy as np
from batchgenerators.augmentations.noise_augmentations import augment_gaussian_blur
from jaxtyping import Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import BlurPlan
from autoseg.training.augmentation.tensors.axis_matrices import apply_along_axis, compute_blur_matrices
from autoseg.training.augmentation.tensors.rows import change_some, view_rows
from autoseg.training.augmentation.tensors.transfer import copy_to_device
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Sigmas = Float64[np.ndarray, "batch channel axis"]


@dataclass(frozen=True, kw_only=True)
class Blur(DeviceTransform[Sigmas]):
    """Carries out "blur"."""

    plan: BlurPlan

    def change_sample(self, sample: Sample) -> None:
        """Blurs some channels."""
        if np.random.uniform() < self.plan.probability:
            augment_gaussian_blur(
                sample.image,
                self.plan.sigma_range_voxels,
                per_channel=True,
                p_per_channel=self.plan.channel_probability,
                different_sigma_per_axis=True,
            )

    def draw(self, draws: SampleDraws) -> Sigmas:
        """Draws standard deviations; all zero: no blur."""
        return np.stack([self._draw_sample(generator, draws.channels) for generator in draws.generators])

    def change_patches(self, patches: Patches, parameters: Sigmas) -> Patches:
        """Blurs the channels whose standard deviations are not zero."""
        rows = view_rows(patches.image)
        blur(rows, parameters.reshape(len(rows), -1))
        return patches

    def _draw_sample(self, generator: np.random.Generator, channels: int) -> Float64[np.ndarray, "channel axis"]:
        is_blurred = np.asarray(generator.random() < self.plan.probability) & (
            generator.random((channels, 1)) < self.plan.channel_probability
        )
        size = (channels, len(self.patch_voxels))
        return np.where(is_blurred, generator.uniform(*self.plan.sigma_range_voxels, size=size), 0)


def blur(rows: Float32[Tensor, " row *space"], sigmas_voxels: Float64[np.ndarray, "row axis"]) -> None:
    """Blurs with a Gaussian of a standard deviation per row and axis, in place."""

    def change(some: Tensor, changed: np.ndarray) -> Tensor:
        largest = float(sigmas_voxels[changed].max())
        for axis, extent in enumerate(some.shape[1:]):
            sigmas = copy_to_device(sigmas_voxels[changed, axis].astype(np.float32), rows.device)
            some = apply_along_axis(some, compute_blur_matrices(sigmas, extent, largest_sigma_voxels=largest), axis)
        return some

    change_some(rows, sigmas_voxels.max(axis=1) > 0, change)
