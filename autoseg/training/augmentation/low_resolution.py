"""Simulated low resolution: downsampling by the nearest voxel, linear upsampling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from batchgenerators.augmentations.resample_augmentations import augment_linear_downsampling_scipy
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from autoseg.plan.augmentation import LowResolutionPlan
from autoseg.training.augmentation.factors import scale_to
from autoseg.training.augmentation.tensors.rows import view_rows
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws, is_slice_wise

DOWN_ORDER: Final = 0
UP_ORDER: Final = 1
VALUES_PER_AXIS: Final = 3  # first and second voxel, share of the second
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
        channels = draws.channels
        numbers = draws.random(1 + 2 * channels)
        is_coarse = (numbers[:, :1] < self.plan.probability) & (
            numbers[:, 1 : 1 + channels] < self.plan.channel_probability
        )
        return np.where(is_coarse, scale_to(numbers[:, 1 + channels :], self.plan.zoom_range), 1)

    def list_arrays(self, parameters: Zooms) -> tuple[np.ndarray, ...]:
        """Lists where each voxel along each axis gets its value from, as `find_sources` does."""
        extents = self.patch_voxels[self._first_axis :]
        return tuple(part for extent in extents for part in find_sources(parameters.ravel(), extent))

    def change_patches(self, patches: Patches, parameters: Zooms, *arrays: Tensor) -> Patches:
        """Changes all channels; those whose zoom is 1 stay exactly as they are."""
        image = simulate_low_resolution(view_rows(patches.image), arrays)
        return Patches(image=image.view(patches.image.shape), label_maps=patches.label_maps)

    @property
    def _first_axis(self) -> int:
        return int(is_slice_wise(in_plane_only=self.plan.in_plane_only, patch_voxels=self.patch_voxels))


def find_sources(
    zooms: Float64[np.ndarray, " row"], extent: int
) -> tuple[Int64[np.ndarray, "row extent"], Int64[np.ndarray, "row extent"], Float64[np.ndarray, "row extent"]]:
    """Finds the two voxels of an axis between which each one is interpolated, and the share of the second one.

    The axis is downsampled to round(extent * zoom) voxels (at least one) by the nearest voxel, then upsampled linearly.
    """
    coarse = np.maximum(np.round(zooms * extent), 1).astype(np.int64)[:, None]
    positions = np.clip((np.arange(extent) + 0.5) * coarse / extent - 0.5, 0, coarse - 1)
    before = np.floor(positions).astype(np.int64)
    after = np.minimum(before + 1, coarse - 1)
    return _find_nearest(before, coarse, extent), _find_nearest(after, coarse, extent), positions - before


def _find_nearest(places: np.ndarray, coarse: np.ndarray, extent: int) -> Int64[np.ndarray, "row extent"]:
    """Finds the voxel of the fine axis at the centre of each voxel of the coarse one."""
    nearest: Int64[np.ndarray, "row extent"] = (2 * places + 1) * extent // (2 * coarse)
    return nearest


def simulate_low_resolution(
    rows: Float32[Tensor, " row *space"], sources: Sequence[Tensor]
) -> Float32[Tensor, " row *space"]:
    """Simulates a lower resolution along the last axes; `sources` holds three tensors for each."""
    axes = len(sources) // VALUES_PER_AXIS
    for axis, start in enumerate(range(0, len(sources), VALUES_PER_AXIS), start=rows.ndim - axes):
        first, second, share = (
            part.view(len(rows), *(-1 if other == axis else 1 for other in range(1, rows.ndim)))
            for part in sources[start : start + VALUES_PER_AXIS]
        )
        before, after = (rows.gather(axis, places.expand(rows.shape)) for places in (first, second))
        rows = torch.lerp(before, after, share)
    return rows
