"""Simulated low resolution: downsampling by the nearest voxel, linear upsampling."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from batchgenerators.augmentations.resample_augmentations import augment_linear_downsampling_scipy
from jaxtyping import Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import LowResolutionPlan
from autoseg.training.augmentation.tensors.axis_matrices import apply_along_axis, compute_low_resolution_matrices
from autoseg.training.augmentation.tensors.rows import change_some, view_rows
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws, is_slice_wise

DOWN_ORDER: Final = 0
UP_ORDER: Final = 1
Zooms = Float64[np.ndarray, "batch channel"]


@dataclass(frozen=True, kw_only=True)
class LowResolution(DeviceTransform[Zooms]):
    """Carries out "low_resolution"."""

    plan: LowResolutionPlan

    def change_sample(self, sample: Sample) -> None:
        """Changes some channels, each by its own zoom."""
        if np.random.uniform() < self.plan.probability:
            augment_linear_downsampling_scipy(
                sample.image,
                zoom_range=self.plan.zoom_range,
                per_channel=True,
                p_per_channel=self.plan.channel_probability,
                order_downsample=DOWN_ORDER,
                order_upsample=UP_ORDER,
                ignore_axes=tuple(range(self._first_axis)),
            )

    def draw(self, draws: SampleDraws) -> Zooms:
        """Draws zooms; 1: unchanged."""
        return np.stack([self._draw_sample(generator, draws.channels) for generator in draws.generators])

    def change_patches(self, patches: Patches, parameters: Zooms) -> Patches:
        """Changes the channels whose zoom is not 1."""
        simulate_low_resolution(view_rows(patches.image), parameters.ravel(), first_axis=self._first_axis)
        return patches

    def _draw_sample(self, generator: np.random.Generator, channels: int) -> Float64[np.ndarray, " channel"]:
        is_coarse = np.asarray(generator.random() < self.plan.probability) & (
            generator.random(channels) < self.plan.channel_probability
        )
        return np.where(is_coarse, generator.uniform(*self.plan.zoom_range, size=channels), 1)

    @property
    def _first_axis(self) -> int:
        return int(is_slice_wise(in_plane_only=self.plan.in_plane_only, patch_voxels=self.patch_voxels))


def simulate_low_resolution(
    rows: Float32[Tensor, " row *space"], zooms: Float64[np.ndarray, " row"], *, first_axis: int
) -> None:
    """Simulates a lower resolution along `first_axis` and the following axes, in place."""

    def change(some: Tensor, changed: np.ndarray) -> Tensor:
        for axis in range(first_axis, some.ndim - 1):
            matrices = compute_low_resolution_matrices(zooms[changed], some.shape[axis + 1], rows.device)
            some = apply_along_axis(some, matrices, axis)
        return some

    change_some(rows, zooms != 1, change)
