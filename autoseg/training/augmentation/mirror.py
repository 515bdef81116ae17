"""Flipping of image and label maps along each allowed axis with probability one half.

Along the axis between left and right it may exchange the labels of paired classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int16
from torch import Tensor

from autoseg.plan.augmentation import MirrorPairsPlan, MirrorPlan
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.training.augmentation.tensors.transfer import copy_to_device
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
        return np.stack([(generator.random(dimensions) < 0.5) & is_allowed for generator in draws.generators])

    def change_patches(self, patches: Patches, parameters: Flips) -> Patches:
        """Flips image and label maps of each sample along its own axes."""
        image, label_maps = patches.image, patches.label_maps
        for axis in np.flatnonzero(parameters.any(axis=0)).tolist():
            flag = copy_to_device(parameters[:, axis], image.device).view(-1, 1, *(1,) * parameters.shape[1])
            image = torch.where(flag, image.flip(axis + 2), image)
            label_maps = torch.where(flag, label_maps.flip(axis + 2), label_maps)
        return Patches(image=image, label_maps=label_maps)


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
        return np.array([generator.random() < 0.5 for generator in draws.generators])

    def change_patches(self, patches: Patches, parameters: Sides) -> Patches:
        """Flips the samples, and exchanges the labels of their pairs."""
        if not parameters.any():
            return patches
        image, label_maps = patches.image, patches.label_maps
        flag = copy_to_device(parameters, image.device).view(-1, 1, *(1,) * len(self.patch_voxels))
        flipped = exchange_labels_on_device(label_maps.flip(self.plan.axis + 2), self.plan.pairs)
        return Patches(
            image=torch.where(flag, image.flip(self.plan.axis + 2), image),
            label_maps=torch.where(flag, flipped, label_maps),
        )


def exchange_labels(
    label_map: Int16[np.ndarray, "*space"], pairs: Sequence[tuple[int, int]]
) -> Int16[np.ndarray, "*space"]:
    """Exchanges the labels of each pair; all others stay."""
    table = _build_table(pairs)
    highest = len(table) - 1 + OUTSIDE_LABEL
    exchanged = table[np.minimum(label_map, highest) - OUTSIDE_LABEL]
    return np.where(label_map > highest, label_map, exchanged)


def exchange_labels_on_device(
    label_maps: Int16[Tensor, "batch map *space"], pairs: Sequence[tuple[int, int]]
) -> Int16[Tensor, "batch map *space"]:
    """Does as `exchange_labels`, without waiting for the device."""
    table = copy_to_device(_build_table(pairs), label_maps.device)
    highest = len(table) - 1 + OUTSIDE_LABEL
    exchanged = table[label_maps.clamp_max(highest).long() - OUTSIDE_LABEL]
    return torch.where(label_maps > highest, label_maps, exchanged)


def _build_table(pairs: Sequence[tuple[int, int]]) -> Int16[np.ndarray, " label"]:
    """Builds a table of labels from -1 (outside the nonzero region) to the highest one of a pair."""
    table = np.arange(OUTSIDE_LABEL, max(label for pair in pairs for label in pair) + 1, dtype=np.int16)
    for first, second in pairs:
        table[first - OUTSIDE_LABEL], table[second - OUTSIDE_LABEL] = second, first
    return table
