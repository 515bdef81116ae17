"""Flipping of image and label maps along each allowed axis with probability one half.

Along the axis between left and right it may exchange the labels of paired classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int16, Int64, Shaped
from torch import Tensor

from autoseg.plan.augmentation import MirrorPairsPlan, MirrorPlan
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.training.augmentation.tensors.rows import combine_axes
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Flips = Bool[np.ndarray, "batch axis"]
Sides = Bool[np.ndarray, " batch"]


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


@dataclass(frozen=True, kw_only=True)
class MirrorPairs(DeviceTransform[Sides]):
    """Carries out "mirror_pairs"."""

    plan: MirrorPairsPlan

    def change_sample(self, sample: Sample) -> None:
        """Flips image and label map, and exchanges the labels of the pairs, or does nothing."""
        if np.random.uniform() >= 0.5:
            return
        axis = self.plan.axis - len(self.patch_voxels)
        sample.image = np.ascontiguousarray(np.flip(sample.image, axis))
        sample.label_map = np.ascontiguousarray(exchange_labels(np.flip(sample.label_map, axis), self.plan.pairs))

    def draw(self, draws: SampleDraws) -> Sides:
        """Draws which samples are flipped."""
        return draws.random(1)[:, 0] < 0.5

    def list_arrays(self, parameters: Sides) -> tuple[np.ndarray, ...]:
        """Lists which place along the axis each place of a patch shows, and which label stands for each label."""
        extent = self.patch_voxels[self.plan.axis]
        along, table = np.arange(extent), _build_table(self.plan.pairs).astype(np.int64)
        is_flipped = parameters[:, None]
        same = np.arange(len(table)) + OUTSIDE_LABEL
        return np.where(is_flipped, extent - 1 - along, along), np.where(is_flipped, table, same)

    def change_patches(self, patches: Patches, parameters: Sides, *arrays: Tensor) -> Patches:
        """Flips the samples, and exchanges the labels of their pairs."""
        (places, tables), axis = arrays, self.plan.axis + 2
        shape = [1] * (2 + len(self.patch_voxels))
        shape[0], shape[axis] = places.shape
        index = places.view(shape)
        image = patches.image.gather(axis, index.expand(patches.image.shape))
        label_maps = patches.label_maps.gather(axis, index.expand(patches.label_maps.shape))
        return Patches(image=image, label_maps=_exchange_labels(label_maps, tables))


def exchange_labels(
    label_map: Int16[np.ndarray, "*space"], pairs: Sequence[tuple[int, int]]
) -> Int16[np.ndarray, "*space"]:
    """Exchanges the labels of each pair; all others stay."""
    table = _build_table(pairs)
    highest = len(table) - 1 + OUTSIDE_LABEL
    exchanged = table[np.minimum(label_map, highest) - OUTSIDE_LABEL]
    return np.where(label_map > highest, label_map, exchanged)


def _exchange_labels(
    label_maps: Int16[Tensor, "batch map *space"], tables: Int64[Tensor, "batch label"]
) -> Int16[Tensor, "batch map *space"]:
    highest = tables.shape[1] - 1 + OUTSIDE_LABEL
    numbers = label_maps.clamp_max(highest).long() - OUTSIDE_LABEL
    exchanged = tables.gather(1, numbers.flatten(1)).view(label_maps.shape).to(label_maps.dtype)
    return torch.where(label_maps > highest, label_maps, exchanged)


def _build_table(pairs: Sequence[tuple[int, int]]) -> Int16[np.ndarray, " label"]:
    """Builds a table of labels from -1 (outside the nonzero region) to the highest one of a pair."""
    table = np.arange(OUTSIDE_LABEL, max(label for pair in pairs for label in pair) + 1, dtype=np.int16)
    for first, second in pairs:
        table[first - OUTSIDE_LABEL], table[second - OUTSIDE_LABEL] = second, first
    return table


def _reorder(values: Shaped[Tensor, "batch part *space"], index: Int64[Tensor, "batch 1 voxel"]) -> Tensor:
    flat = values.flatten(2)
    return flat.gather(2, index.expand(flat.shape)).view(values.shape)
