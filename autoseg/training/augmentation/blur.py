"""Gaussian blur with a standard deviation per channel and axis.

batchgenerators' kernel reaches 4 standard deviations and mirrors the border about its edge; the torch transforms that
nnU-Net uses today reach about 3 and mirror about the centre of the outermost voxel.
"""

from dataclasses import dataclass

import numpy as np
import torch
from batchgenerators.augmentations.noise_augmentations import augment_gaussian_blur
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import BlurPlan
from autoseg.training.augmentation.factors import scale_to
from autoseg.training.augmentation.tensors.axis_matrices import (
    apply_along_axes,
    compute_blur_kernels,
    compute_blur_matrices,
)
from autoseg.training.augmentation.tensors.rows import expand_column, view_rows
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
        channels, axes = draws.channels, len(self.patch_voxels)
        numbers = draws.random(1 + channels + channels * axes)
        is_blurred = (numbers[:, :1] < self.plan.probability) & (
            numbers[:, 1 : 1 + channels] < self.plan.channel_probability
        )
        sigmas = scale_to(numbers[:, 1 + channels :], self.plan.sigma_range_voxels).reshape(-1, channels, axes)
        return np.where(is_blurred[:, :, None], sigmas, 0)

    def list_arrays(self, parameters: Sigmas) -> tuple[np.ndarray, ...]:
        """Lists the kernels of the channels one after the other, and which channels are blurred."""
        sigmas = parameters.reshape(-1, parameters.shape[-1])
        kernels = compute_blur_kernels(sigmas, largest_sigma_voxels=self.plan.sigma_range_voxels[1])
        return kernels, sigmas[:, 0] > 0

    def change_patches(self, patches: Patches, parameters: Sigmas, *arrays: Tensor) -> Patches:
        """Blurs the channels whose standard deviations are not zero."""
        image = blur(view_rows(patches.image), *arrays)
        return Patches(image=image.view(patches.image.shape), label_maps=patches.label_maps)


def blur(
    rows: Float32[Tensor, " row *space"],
    kernels: Float32[Tensor, "row axis distance"],
    is_blurred: Bool[Tensor, " row"],
) -> Float32[Tensor, " row *space"]:
    """Blurs some rows, each axis by a kernel of its own."""
    blurred = apply_along_axes(rows, compute_blur_matrices(kernels, tuple(rows.shape[1:])))
    return torch.where(expand_column(is_blurred, rows), blurred, rows)
