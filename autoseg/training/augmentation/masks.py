"""Masks of a previous stage in a training patch: conversions, and random numbers for their transforms.

The previous stage's prediction goes through augmentation as a label map; a transform of masks takes it apart into one
mask per foreground label and puts them together again, so that it may stand anywhere in the list.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int16, Int64
from torch import Tensor

from autoseg.training.augmentation.transform import SampleDraws, build_generator

# Distinguishes these draws from those of other transforms, which have the same seeds.
SPAWN_KEY: Final = (2,)
OPERATION_COUNT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskDraws:
    """Random numbers of the transforms of masks, uniform in 0 to 1 but for two.

    All transforms of masks read their own columns of the same table, so that no number depends on which of them a plan
    lists.

    Attributes:
        morphology: Decides whether masks grow or shrink.
        removal: Decides whether masks lose components.
        order: A permutation of the labels.
        label_morphology: Decides for each label.
        operation: 0 to 3.
        radius: Position in the range of the radius.
        label_removal: Decides for each label.
        choice: Choice of the component that is removed.
    """

    morphology: Float64[np.ndarray, "batch 1"]
    removal: Float64[np.ndarray, "batch 1"]
    order: Int64[np.ndarray, "batch label"]
    label_morphology: Float64[np.ndarray, "batch label"]
    operation: Int64[np.ndarray, "batch label"]
    radius: Float64[np.ndarray, "batch label"]
    label_removal: Float64[np.ndarray, "batch label"]
    choice: Float64[np.ndarray, "batch label"]


def draw_for_masks(draws: SampleDraws, label_count: int, *, occurrence: int) -> MaskDraws:
    """Draws the table for the samples of a batch; a second occurrence of a transform has another table."""
    key = (*SPAWN_KEY, occurrence) if occurrence else SPAWN_KEY
    drawn = [_draw_sample(build_generator(sample, key), label_count) for sample in draws.seeds]
    names = [field.name for field in fields(MaskDraws)]
    return MaskDraws(**{name: np.stack([values[name] for values in drawn]) for name in names})


def _draw_sample(generator: np.random.Generator, labels: int) -> dict[str, np.ndarray]:
    return {
        "morphology": generator.random(1),
        "removal": generator.random(1),
        "order": generator.permutation(labels),
        "label_morphology": generator.random(labels),
        "operation": generator.integers(OPERATION_COUNT, size=labels),
        "radius": generator.random(labels),
        "label_removal": generator.random(labels),
        "choice": generator.random(labels),
    }


def encode_masks(
    label_map: Int16[np.ndarray, "*space"], foreground_labels: Sequence[int]
) -> Bool[np.ndarray, " label *space"]:
    """Encodes one mask for each label; other values of the map are in none."""
    return np.stack([label_map == label for label in foreground_labels])


def write_masks(
    label_map: Int16[np.ndarray, "*space"], masks: Bool[np.ndarray, " label *space"], foreground_labels: Sequence[int]
) -> None:
    """Writes changed masks, which share no voxel, to their label map; voxels in no mask any more are background."""
    label_map[np.isin(label_map, foreground_labels)] = 0
    for label, mask in zip(foreground_labels, masks, strict=True):
        label_map[mask] = label


def split_masks(
    label_maps: Int16[Tensor, " batch *space"], foreground_labels: Sequence[int]
) -> Bool[Tensor, "batch label *space"]:
    """Splits a label map into one mask for each label."""
    return torch.stack([label_maps == label for label in foreground_labels], dim=1)


def join_masks(
    label_maps: Int16[Tensor, " batch *space"],
    masks: Bool[Tensor, "batch label *space"],
    foreground_labels: Sequence[int],
) -> Int16[Tensor, " batch *space"]:
    """Joins changed masks, which share no voxel, to label maps; voxels in no mask any more are background."""
    joined = label_maps
    for label in foreground_labels:
        joined = joined.masked_fill(label_maps == label, 0)
    for index, label in enumerate(foreground_labels):
        joined = joined.masked_fill(masks[:, index], label)
    return joined
