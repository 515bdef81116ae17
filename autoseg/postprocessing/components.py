"""Connected components of several masks in one pass over a label map."""

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8, UInt16

Groups = Sequence[Sequence[int]]
"""Internal labels of each mask; no label belongs to two masks."""

CONNECTIVITY = 26  # faces, edges and corners; in a volume of one slice these are the 8 neighbours in the plane


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Components:
    """The components of all masks, numbered from 1.

    Attributes:
        numbers: The number of the component of each voxel; 0 outside of all masks.
        voxels: Number of voxels of every component; for number 0, of the rest of the volume.
        groups: Index of the mask that a component belongs to; -1 for number 0.
    """

    numbers: Integer[np.ndarray, "z y x"]
    voxels: Int64[np.ndarray, " component"]
    groups: Int64[np.ndarray, " component"]

    def find_largest(self, group: int) -> Bool[np.ndarray, " component"]:
        """Finds the largest component of a mask: several if they tie, none if the mask is empty."""
        is_member: Bool[np.ndarray, " component"] = self.groups == group
        largest: Bool[np.ndarray, " component"] = is_member & (self.voxels == self.voxels[is_member].max(initial=0))
        return largest


def find_components(label_map: Integer[np.ndarray, "z y x"], groups: Groups) -> Components:
    """Finds the components of disjoint masks; neighbours are connected if they belong to the same mask."""
    masks = number_groups(label_map, groups)
    numbers = cc3d.connected_components(masks, connectivity=CONNECTIVITY)
    voxels = np.zeros(1 + int(numbers.max(initial=0)), np.int64)
    owners = np.full(len(voxels), -1, np.int64)
    for mask, plane in zip(masks, numbers, strict=True):  # plane by plane, as indexing takes 8 bytes per voxel
        owners[plane] = mask.astype(np.int64) - 1
        voxels += np.bincount(plane.ravel(), minlength=len(voxels))
    return Components(numbers=numbers, voxels=voxels, groups=owners)


def number_groups(
    label_map: Integer[np.ndarray, "z y x"], groups: Groups
) -> UInt8[np.ndarray, "z y x"] | UInt16[np.ndarray, "z y x"]:
    """Returns the number of the mask of each voxel: 1 for the first mask, 2 for the second, ..., else 0.

    Args:
        label_map: Internal labels, none of them negative.
        groups: Labels of each mask.
    """
    highest = max(int(label_map.max(initial=0)), *(label for members in groups for label in members))
    table = np.zeros(highest + 1, np.uint8 if len(groups) < 2**8 else np.uint16)
    for index, members in enumerate(groups):
        table[list(members)] = index + 1
    masks = np.empty(label_map.shape, table.dtype)
    for place, plane in zip(masks, label_map, strict=True):
        place[...] = table[plane]
    return masks
