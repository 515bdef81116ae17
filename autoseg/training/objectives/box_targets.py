"""The boxes of the objects of a label map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16
from scipy import ndimage
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.nonzero_region import FULL_CONNECTIVITY, connect_voxels
from autoseg.runtime.streams import copy_to_device
from autoseg.training.losses.targets import build_class_masks, find_valid_voxels

MOST_OBJECTS: Final = 64
"""The largest are kept: a map of scattered voxels would need more memory than the network (guess)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxTargets:
    """The boxes of the objects of a sample, the largest object first.

    Attributes:
        boxes: Corners in voxels.
        classes: Classes that the object holds.
    """

    boxes: Float[Tensor, "object 2 axes"]
    classes: Bool[Tensor, "object class"]

    def __len__(self) -> int:
        return len(self.boxes)


def find_box_targets(
    label_map: Int16[Tensor, " *space"],
    labels: LabelScheme,
    *,
    margins_voxels: Sequence[float],
    device: torch.device | None = None,
) -> BoxTargets:
    """Finds the connected components of the foreground of all classes, on the CPU.

    Args:
        label_map: Label map of a sample.
        labels: Its labels.
        margins_voxels: Lengths per axis by which boxes are larger than objects, as far as the patch reaches.
        device: Device of the boxes; None: that of the label map.
    """
    masks = build_class_masks(label_map[None].cpu(), labels)[0].numpy()
    objects = connect_voxels(np.any(masks, axis=0), connectivity=FULL_CONNECTIVITY[label_map.ndim])
    numbers = np.argsort(-np.bincount(objects.ravel())[1:], kind="stable")[:MOST_OBJECTS]
    places = ndimage.find_objects(objects)
    boxes = np.empty((len(numbers), 2, label_map.ndim), np.float32)
    classes = np.zeros((len(numbers), len(masks)), bool)
    for row, number in enumerate(numbers):
        cut = places[number]
        boxes[row] = _enlarge(cut, label_map.shape, margins_voxels)
        classes[row] = (masks[(slice(None), *cut)] & (objects[cut] == number + 1)).reshape(len(masks), -1).any(axis=1)
    found = (copy_to_device(torch.from_numpy(array), device or label_map.device) for array in (boxes, classes))
    return BoxTargets(boxes=next(found), classes=next(found))


def _enlarge(cut: Sequence[slice], extents: Sequence[int], margins: Sequence[float]) -> np.ndarray:
    axes = zip(cut, extents, margins, strict=True)
    faces = [(max(0.0, part.start - margin), min(extent, part.stop + margin)) for part, extent, margin in axes]
    return np.array(faces, np.float32).T


def find_usable_cells(
    label_map: Tensor, centres: Float[Tensor, "cell axes"], labels: LabelScheme
) -> Bool[Tensor, "batch cell"]:
    """Finds the cells whose centre lies in no voxel of the ignore label."""
    valid = find_valid_voxels(label_map, labels)
    if valid is None:
        return torch.ones((len(label_map), len(centres)), dtype=torch.bool, device=centres.device)
    places = centres.long().unbind(dim=-1)
    usable: Tensor = valid[(slice(None), 0, *places)]  # type: ignore[index]
    return usable
