"""Features of a finished label map: size, components, form and place of every class."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Integer
from scipy import ndimage

from autoseg.geometry import FloatTriple
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import connect_voxels
from autoseg.quality.features import MM3_PER_ML, ClassShape

MOST_VOXELS: Final = 2**24
"""Voxels of the box around a class in which components are counted; a larger box is thinned along all axes."""
NEIGHBOURS: Final = 26

Box = tuple[slice, ...]


def measure_shapes(
    label_map: Integer[np.ndarray, "z y x"], spacing_mm: FloatTriple, labels: LabelScheme
) -> tuple[ClassShape | None, ...]:
    """Measures every class of a label scheme; None where it is empty. Only the box around a class is processed.

    Args:
        label_map: Internal labels in plan axes.
        spacing_mm: Spacing in plan axes.
        labels: Label scheme.
    """
    boxes = ndimage.find_objects(label_map, max_label=len(labels.file_values) - 1)
    return tuple(_measure_class(label_map, members, boxes, spacing_mm) for members in labels.class_labels)


def _measure_class(
    label_map: Integer[np.ndarray, "z y x"],
    members: Sequence[int],
    boxes: Sequence[Box | None],
    spacing_mm: FloatTriple,
) -> ClassShape | None:
    box = _join([boxes[label - 1] for label in members if label > 0])
    if box is None:
        return None
    mask = np.isin(label_map[box], np.asarray(members))
    voxels = int(np.count_nonzero(mask))
    step = _choose_step(mask.size)
    thinned = mask[::step, ::step, ::step]
    sizes = np.bincount(connect_voxels(thinned, connectivity=NEIGHBOURS).ravel())[1:]
    areas_mm2 = [math.prod(spacing_mm) / along for along in spacing_mm]
    inner = [count * area for count, area in zip(_count_faces(mask), areas_mm2, strict=True)]
    at_border = [count * area for count, area in zip(_count_border(mask, box, label_map.shape), areas_mm2, strict=True)]
    voxel_mm3 = math.prod(spacing_mm)
    return ClassShape(
        volume_ml=voxels * voxel_mm3 / MM3_PER_ML,
        components=max(1, len(sizes)),
        largest_fraction=float(sizes.max() / sizes.sum()) if sizes.size else 1.0,
        compactness=sum(inner) ** 3 / (36 * math.pi * (voxels * voxel_mm3) ** 2),
        border_fraction=sum(at_border) / sum(inner),
        centre=_find_centre(mask, box, label_map.shape),
    )


def _join(boxes: Sequence[Box | None]) -> Box | None:
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    z, y, x = (
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*found, strict=True)
    )
    return z, y, x


def _choose_step(voxels: int) -> int:
    step = 1
    while voxels / step**3 > MOST_VOXELS:
        step += 1
    return step


def _count_faces(mask: Bool[np.ndarray, "z y x"]) -> list[int]:
    """Counts the faces of the voxels across each axis behind which the class ends."""
    counts = []
    for axis in range(3):
        along = np.moveaxis(mask, axis, 0)
        inside = int(np.count_nonzero(along[1:] != along[:-1]))
        counts.append(inside + int(np.count_nonzero(along[0])) + int(np.count_nonzero(along[-1])))
    return counts


def _count_border(mask: Bool[np.ndarray, "z y x"], box: Box, shape: Sequence[int]) -> list[int]:
    """Counts the faces on the border of the image across each axis; an image of one slice has none across it."""
    counts = []
    for axis, (side, extent) in enumerate(zip(box, shape, strict=True)):
        along = np.moveaxis(mask, axis, 0)
        ends = ([along[0]] if side.start == 0 else []) + ([along[-1]] if side.stop == extent else [])
        counts.append(sum(int(np.count_nonzero(end)) for end in ends) if extent > 1 else 0)
    return counts


def _find_centre(mask: Bool[np.ndarray, "z y x"], box: Box, shape: Sequence[int]) -> tuple[float, float, float]:
    z, y, x = (
        (side.start + float(np.average(np.arange(len(counts)), weights=counts)) + 0.5) / extent
        for counts, side, extent in zip(
            (mask.sum(tuple({0, 1, 2} - {axis})) for axis in range(3)), box, shape, strict=True
        )
    )
    return z, y, x
