"""Sampled voxel locations of every class, on which training centres patches without reading the whole label map."""

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Int16, Int32

from autoseg.labels import LabelScheme
from autoseg.nonzero_region import Box, slice_box

# All voxels of a class up to this number, then this many, then this fraction, as in the reference implementation.
MIN_LOCATIONS: Final = 10_000
MIN_FRACTION: Final = 0.01
SEED: Final = 1234

Range = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLocations:
    """Coordinates of sampled voxels of every class.

    Attributes:
        coordinates: Coordinates z, y, x, sorted by class.
        class_ranges: Rows of each class (half open) in the order of `LabelScheme.class_labels`; empty for a class that
            does not occur.
        annotated_range: Rows of voxels of any label but the ignore label; None for a scheme without ignore label.
    """

    coordinates: Int32[np.ndarray, "location 3"]
    class_ranges: tuple[Range, ...]
    annotated_range: Range | None

    def of_class(self, index: int) -> Int32[np.ndarray, "some 3"]:
        """Returns locations of class `index` of `LabelScheme.class_labels`."""
        return self.coordinates[slice(*self.class_ranges[index])]

    @property
    def of_annotated(self) -> Int32[np.ndarray, "some 3"] | None:
        """Locations of annotated voxels, whatever their label; None for a scheme without ignore label."""
        return None if self.annotated_range is None else self.coordinates[slice(*self.annotated_range)]


def find_class_locations(label_map: Int16[np.ndarray, "z y x"], labels: LabelScheme) -> ClassLocations:
    """Draws locations of every class without replacement; equal label maps give equal locations."""
    generator = np.random.default_rng(SEED)
    boxes = _find_label_boxes(label_map, len(labels.file_values) - 1)
    found = [_draw_class(label_map, members, boxes, generator) for members in labels.class_labels]
    if labels.ignore_label is not None:
        found.append(draw_locations(label_map != labels.ignore_label, generator))
    ends = np.cumsum([0, *(len(part) for part in found)]).tolist()
    ranges = tuple(itertools.pairwise(ends))
    class_count = len(labels.class_labels)
    return ClassLocations(
        coordinates=np.concatenate(found),
        class_ranges=ranges[:class_count],
        annotated_range=None if labels.ignore_label is None else ranges[class_count],
    )


def _find_label_boxes(label_map: Int16[np.ndarray, "z y x"], label_count: int) -> dict[int, Box]:
    from scipy import ndimage  # imported here because it takes 0.3 s

    found = ndimage.find_objects(label_map, max_label=label_count)
    return {
        label: ((z.start, z.stop), (y.start, y.stop), (x.start, x.stop))
        for label, (z, y, x) in ((label, slices) for label, slices in enumerate(found, start=1) if slices is not None)
    }


def _draw_class(
    label_map: Int16[np.ndarray, "z y x"],
    members: tuple[int, ...],
    boxes: dict[int, Box],
    generator: np.random.Generator,
) -> Int32[np.ndarray, "location 3"]:
    present = [boxes[label] for label in members if label in boxes]
    if not present:
        return np.empty((0, 3), dtype=np.int32)
    z, y, x = ((min(box[axis][0] for box in present), max(box[axis][1] for box in present)) for axis in range(3))
    region = label_map[slice_box((z, y, x))]
    is_member = region == members[0] if len(members) == 1 else np.isin(region, members)
    locations = draw_locations(is_member, generator)
    locations += np.array([z[0], y[0], x[0]], dtype=np.int32)
    return locations


def draw_locations(mask: Bool[np.ndarray, "z y x"], generator: np.random.Generator) -> Int32[np.ndarray, "location 3"]:
    """Draws true voxels slice by slice, as a list of all of them would be eight times the size of the mask."""
    slice_counts = np.count_nonzero(mask, axis=(1, 2))
    ends = np.cumsum(slice_counts)
    total = int(ends[-1])
    count = max(min(MIN_LOCATIONS, total), int(np.ceil(MIN_FRACTION * total)))
    ranks = np.sort(generator.choice(total, size=count, replace=False))
    locations = np.empty((count, 3), dtype=np.int32)
    borders = np.searchsorted(ranks, np.concatenate([[0], ends]))
    for z in np.flatnonzero(np.diff(borders)):
        rows = slice(borders[z], borders[z + 1])
        flat = np.flatnonzero(mask[z])[ranks[rows] - (ends[z] - slice_counts[z])]
        locations[rows, 0] = z
        locations[rows, 1], locations[rows, 2] = np.divmod(flat, mask.shape[2])
    return locations
