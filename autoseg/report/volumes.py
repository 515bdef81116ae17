"""Image and label maps of a case as a page shows them: cropped, in 8 bit, and as small as a budget demands."""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Integer, Shaped, UInt8
from numpy.typing import NDArray

from autoseg.geometry import Grid, compute_reorientation, make_triple
from autoseg.volume_io import build_label_map

DISPLAY_CODE: Final = "LPS"
"""Axes on the screen: the patient's left is on the right, the front is above, as radiologists look at images."""
DISPLAY_DIRECTION: Final = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0))
MARGIN_FRACTION: Final = 0.3
FEWEST_MARGIN_VOXELS: Final = 6
SHOWN_PERCENTILES: Final = (0.5, 99.5)
VOXELS_PER_BYTE: Final = 4  # images compress less, so that encoding would be in vain
MOST_LABELS: Final = 255
ERRORS: Final = "errors"
MISSED, FALSE, OTHER_CLASS = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseVolumes:
    """Image and label maps of a case on one grid.

    Attributes:
        image: One channel, or three of a colour picture; None if it cannot be read.
        label_maps: Label maps with consecutive labels by name.
        grid: The grid of all of them.
    """

    image: Shaped[np.ndarray, "channel z y x"] | None
    label_maps: Mapping[str, Integer[np.ndarray, "z y x"]]
    grid: Grid

    def prepare(self) -> "CaseVolumes":
        """Returns the region around the labels in 8 bit, with axes as on the screen."""
        return self._orient()._crop()._convert()

    def shrink(self) -> "CaseVolumes":
        """Returns every second voxel along the axes of the finest spacing."""
        spacing = np.where(np.array(self.grid.shape_voxels) > 1, self.grid.spacing_mm, np.inf)
        steps = tuple(2 if value < 1.5 * spacing.min() else 1 for value in spacing)
        kept = tuple(slice(None, None, step) for step in steps)
        wider = make_triple(np.array(self.grid.spacing_mm) * steps)
        return self._cut(kept, replace(self.grid, spacing_mm=wider))

    def encode(self, array: UInt8[np.ndarray, "z y x"]) -> bytes:
        """Encodes an array on this grid as a compressed NIfTI file; equal arrays become equal files."""
        stored = build_label_map(Path("volume.nii"), np.ascontiguousarray(array), grid=self.grid, like=None)
        return gzip.compress(stored.to_bytes(), compresslevel=9, mtime=0)

    def encode_all(self, *, most_bytes: int) -> dict[str, bytes]:
        """Encodes the image (by the name "image") and all label maps within a number of bytes, if need be coarser."""
        if prod(self.grid.shape_voxels) > VOXELS_PER_BYTE * most_bytes:
            return self.shrink().encode_all(most_bytes=most_bytes)
        arrays = ({} if self.image is None else {"image": _turn_grey(self.image)}) | dict(self.label_maps)
        encoded = {name: self.encode(array) for name, array in arrays.items()}
        if sum(map(len, encoded.values())) <= most_bytes or max(self.grid.shape_voxels) <= 8:
            return encoded
        return self.shrink().encode_all(most_bytes=most_bytes)

    def _cut(self, kept: tuple[slice, ...], grid: Grid) -> "CaseVolumes":
        depth, height, width = (len(range(extent)[part]) for extent, part in zip(grid.shape_voxels, kept, strict=True))
        return self._map(
            lambda array: array[..., kept[0], kept[1], kept[2]], replace(grid, shape_voxels=(depth, height, width))
        )

    def _map(self, change: Callable[[NDArray[Any]], NDArray[Any]], grid: Grid) -> "CaseVolumes":
        image = None if self.image is None else change(self.image)
        label_maps = {name: change(label_map) for name, label_map in self.label_maps.items()}
        return CaseVolumes(image=image, label_maps=label_maps, grid=grid)

    def _orient(self) -> "CaseVolumes":
        turned = self
        if self.grid.is_oriented:
            change = compute_reorientation(self.grid.orientation_code, DISPLAY_CODE)
            turned = self._map(change.apply, change.apply_to_grid(self.grid))
        depth, height, width = turned.grid.spacing_mm
        spacing = (height if turned.grid.shape_voxels[0] == 1 else depth, height, width)
        grid = Grid(shape_voxels=turned.grid.shape_voxels, spacing_mm=spacing, direction=DISPLAY_DIRECTION)
        return replace(turned, grid=grid)

    def _crop(self) -> "CaseVolumes":
        inside = np.zeros(self.grid.shape_voxels, bool)
        for label_map in self.label_maps.values():
            inside |= label_map > 0
        if not inside.any():
            return self
        kept = []
        for axis, extent in enumerate(inside.shape):
            found = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
            first, last = int(found[0]), int(found[-1]) + 1
            margin = max(FEWEST_MARGIN_VOXELS, round(MARGIN_FRACTION * (last - first)))
            kept.append(slice(max(0, first - margin), min(extent, last + margin)))
        return self._cut(tuple(kept), self.grid)

    def _convert(self) -> "CaseVolumes":
        label_maps = {
            name: np.where(array > MOST_LABELS, (array - 1) % MOST_LABELS + 1, np.maximum(array, 0)).astype(np.uint8)
            for name, array in self.label_maps.items()
        }
        return replace(self, image=None if self.image is None else scale_to_bytes(self.image), label_maps=label_maps)


def scale_to_bytes(image: Shaped[np.ndarray, "channel z y x"]) -> UInt8[np.ndarray, "channel z y x"]:
    """Scales the intensities between two percentiles to 0 to 255; what is not finite becomes 0."""
    finite = np.where(np.isfinite(image), image, 0).astype(np.float32)
    low, high = np.percentile(finite, SHOWN_PERCENTILES)
    scaled = (finite - low) / max(high - low, np.finfo(np.float32).tiny)
    shown: UInt8[np.ndarray, "channel z y x"] = np.clip(np.rint(255 * scaled), 0, 255).astype(np.uint8)
    return shown


def find_errors(
    reference: Integer[np.ndarray, "z y x"], prediction: Integer[np.ndarray, "z y x"]
) -> UInt8[np.ndarray, "z y x"]:
    """Marks voxels that are missed (1), predicted where there is nothing (2), or given to another class (3)."""
    is_wrong = reference != prediction
    errors = np.zeros(reference.shape, np.uint8)
    errors[is_wrong & (prediction == 0)] = MISSED
    errors[is_wrong & (reference == 0)] = FALSE
    errors[is_wrong & (reference != 0) & (prediction != 0)] = OTHER_CLASS
    return errors


def _turn_grey(image: UInt8[np.ndarray, "channel z y x"]) -> UInt8[np.ndarray, "z y x"]:
    grey: UInt8[np.ndarray, "z y x"] = np.rint(image.mean(axis=0)).astype(np.uint8)
    return grey
