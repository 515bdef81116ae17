"""The objects of a label map of cores and borders: their boxes, classes and numbers."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int16, Int32
from scipy import ndimage
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.nonzero_region import number_components
from autoseg.runtime.streams import copy_to_device

MOST_OBJECTS: Final = 128
"""The largest are kept; the voxels of others are no background. A fixed number, so that all steps are alike (guess:
more than a patch usually holds)."""
IGNORED: Final = -1
"""Number of voxels that are neither an object that is kept nor background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectTargets:
    """The objects of a batch; a fixed number of rows, of which some are empty.

    Attributes:
        boxes: Corners in voxels.
        classes: Class of every object.
        is_object: The rows that hold an object: the first ones.
        counts: Number of the objects of every sample, known to the CPU.
        numbers: Row of the object of every voxel plus 1; 0 is background, `IGNORED` neither.
    """

    boxes: Float[Tensor, "batch object 2 axes"]
    classes: Int[Tensor, "batch object"]
    is_object: Bool[Tensor, "batch object"]
    counts: tuple[int, ...]
    numbers: Int[Tensor, " batch *space"]

    def list_boxes(self, sample: int) -> Float[Tensor, "_object 2 axes"]:
        """Lists the boxes of the objects of a sample."""
        return self.boxes[sample, : self.counts[sample]]


def find_object_targets(
    label_map: Int16[Tensor, " batch *space"], labels: LabelScheme, spacing_mm: tuple[float, ...]
) -> ObjectTargets:
    """Finds the objects of a batch, on the CPU.

    A core is an object, with the voxels of its border: those that are nearer to it than to other cores in the same
    connected component of the class. A component without a core, as of objects that the patch cuts, is one, too.

    Args:
        label_map: Cores and borders.
        labels: Their labels.
        spacing_mm: Distance of neighbouring voxels along each axis.
    """
    batch, axes = label_map.shape[0], label_map.ndim - 1
    boxes = np.zeros((batch, MOST_OBJECTS, 2, axes), np.float32)
    boxes[:, :, 1] = 1
    classes = np.zeros((batch, MOST_OBJECTS), np.int64)
    is_object = np.zeros((batch, MOST_OBJECTS), bool)
    numbers = np.zeros(label_map.shape, np.int64)
    for sample, own in enumerate(label_map.cpu().numpy()):
        found, kinds = number_objects(own, len(labels.foreground_labels) // 2, spacing_mm)
        order = np.argsort(-np.bincount(found.ravel(), minlength=1)[1:], kind="stable")[:MOST_OBJECTS]
        table = np.full(1 + len(kinds), IGNORED)
        table[0] = 0
        table[1 + order] = 1 + np.arange(len(order))
        numbers[sample] = table[found]
        if labels.ignore_label is not None:
            numbers[sample][own == labels.ignore_label] = IGNORED
        places = ndimage.find_objects(found)
        for row, number in enumerate(order):
            boxes[sample, row] = np.array([(part.start, part.stop) for part in places[number]]).T
        classes[sample, : len(order)], is_object[sample, : len(order)] = kinds[order], True
    on_device = [
        copy_to_device(torch.from_numpy(found), label_map.device) for found in (boxes, classes, is_object, numbers)
    ]
    return ObjectTargets(
        boxes=on_device[0],
        classes=on_device[1],
        is_object=on_device[2],
        numbers=on_device[3],
        counts=tuple(is_object.sum(axis=1).tolist()),
    )


def number_objects(
    label_map: Int16[np.ndarray, "*space"], class_count: int, spacing_mm: tuple[float, ...]
) -> tuple[Int32[np.ndarray, "*space"], Int[np.ndarray, " object"]]:
    """Numbers the objects of a label map of cores and borders from 1, with the class of each."""
    numbers = np.zeros(label_map.shape, np.int32)
    kinds: list[int] = []
    for kind in range(class_count):
        is_core = label_map == kind + 1
        own = _grow(is_core, is_core | (label_map == kind + 1 + class_count), spacing_mm)
        numbers = np.where(own > 0, own + len(kinds), numbers).astype(np.int32)
        kinds += [kind] * int(own.max(initial=0))
    return numbers, np.array(kinds, np.int64)


def _grow(
    is_core: Bool[np.ndarray, "*space"], is_class: Bool[np.ndarray, "*space"], spacing_mm: tuple[float, ...]
) -> Int32[np.ndarray, "*space"]:
    """Gives every voxel of a class to the nearest core of its connected component."""
    parts = number_components(is_class)
    if not is_core.any():
        return parts
    cores = number_components(is_core)
    places = _find_nearest(is_core, spacing_mm)
    grown = np.where(is_class & (parts[places] == parts), cores[places], 0)
    # Where another component has the nearest core, that of the own one is looked for anew.
    left = np.where(is_class & (grown == 0), parts, 0)
    boxes = ndimage.find_objects(parts)
    for part in np.intersect1d(left, parts[is_core]):
        box = boxes[part - 1]
        own = np.where(parts[box] == part, cores[box], 0)
        grown[box] = np.where(left[box] == part, own[_find_nearest(own > 0, spacing_mm)], grown[box])
    rest = number_components(is_class & (grown == 0))
    joined: Int32[np.ndarray, "*space"] = np.where(rest > 0, rest + cores.max(), grown).astype(np.int32)
    return joined


def _find_nearest(is_core: Bool[np.ndarray, "*space"], spacing_mm: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Finds the place of the nearest voxel of a core, one array an axis."""
    return tuple(
        ndimage.distance_transform_edt(~is_core, sampling=spacing_mm, return_distances=False, return_indices=True)
    )
