"""Paints the label map and the object map of a case from the files that its layout names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Shaped

from autoseg.dataset.layouts.layout import CocoObjects, ForegroundMask, LabelValues, MaskRule, Objects
from autoseg.errors import VolumeError
from autoseg.file_endings import LOSSY_ENDINGS, find_ending
from autoseg.geometry import Grid, compute_reorientation
from autoseg.volume_io import LabelVolume, check_same_grid, list_grid_differences, read_label_map, read_picture
from autoseg.workflows.convert.coco import paint_coco_objects
from autoseg.workflows.convert.polygons import Box, paint_polygon, read_aperio_polygons

MOST_SHOWN_VALUES: Final = 5

LabelMap = Int32[np.ndarray, "z y x"]
Mask = Bool[np.ndarray, "z y x"]
EVERYWHERE: Final[Box] = (slice(None), slice(None), slice(None))


@dataclass(slots=True, kw_only=True)
class Painting:
    """The maps of a case while they are painted.

    Attributes:
        grid: Grid of the maps: that of the image until a label map with a grid of its own is painted.
        labels: Values to be written.
        objects: Number of the object of each voxel; 0 outside of all.
        like: File whose header describes the grid; the image if None.
        object_count: Number of objects painted.
        crowd_count: Number of masks of several objects.
        empty_count: Number of objects without a pixel.
        grey_pixels: Pixels of black and white pictures that are neither.
        mask_pixels: Pixels of black and white pictures.
        shared_pixels: Pixels of objects that a later object covers.
        has_moved: Whether a label map lay elsewhere and was written on the grid of the image.
    """

    grid: Grid
    labels: LabelMap
    objects: LabelMap
    like: Path | None = None
    object_count: int = 0
    crowd_count: int = 0
    empty_count: int = 0
    grey_pixels: int = 0
    mask_pixels: int = 0
    shared_pixels: int = 0
    has_moved: bool = False

    def cut_slice(self, index: int) -> "Painting":
        """Returns views of one slice."""
        part = slice(index, index + 1)
        grid = replace(self.grid, shape_voxels=(1, *self.grid.shape_voxels[1:]))
        return replace(self, grid=grid, labels=self.labels[part], objects=self.objects[part])

    def add_object(self, mask: Mask, label: int, *, box: Box = EVERYWHERE) -> None:
        """Paints one object inside a box over those before; nothing for an empty mask."""
        if not mask.any():
            self.empty_count += 1
            return
        self.object_count += 1
        self.shared_pixels += int(np.count_nonzero(self.objects[box][mask]))
        self.objects[box][mask] = self.object_count
        self.labels[box][mask] = label

    def add_crowd(self, mask: Mask, label: int, *, box: Box = EVERYWHERE) -> None:
        """Paints several objects that nobody told apart, without a number."""
        self.crowd_count += 1
        self.labels[box][mask] = label


def begin_painting(grid: Grid) -> Painting:
    """Returns empty maps on the grid of an image."""
    return Painting(
        grid=grid, labels=np.zeros(grid.shape_voxels, np.int32), objects=np.zeros(grid.shape_voxels, np.int32)
    )


def paint_files(painting: Painting, rule: MaskRule | CocoObjects, files: Sequence[Path]) -> None:
    """Paints the files of one rule; objects of a JSON file are painted from the largest to the smallest.

    Raises:
        VolumeError: A file cannot be read, or does not have the size of the image.
        DocumentError: The same of an XML file.
    """
    if isinstance(rule, LabelValues):
        _paint_values(painting, rule, files[0])
    elif isinstance(rule, ForegroundMask):
        for path in files:
            painting.labels[_read_mask(painting, path)] = rule.label
    elif isinstance(rule, CocoObjects):
        for label, box, inside, is_crowd in paint_coco_objects(files[0], rule, painting.grid.shape_voxels):
            (painting.add_crowd if is_crowd else painting.add_object)(inside, label, box=box)
    else:
        PAINTERS[rule.stored_as](painting, rule, files)


def _paint_values(painting: Painting, rule: LabelValues, path: Path) -> None:
    volume = read_label_map(path)
    if volume.grid.is_oriented:
        volume = _place_volume(painting, volume, path, has_own_axes=rule.has_own_axes)
    else:
        _check_size(painting, volume.array, path)
    values = _translate(volume.array, rule.values, path)
    covered = values > 0
    painting.labels[covered] = values[covered]


def _place_volume(painting: Painting, volume: LabelVolume, path: Path, *, has_own_axes: bool) -> LabelVolume:
    """Returns the label map on the grid of the maps; a grid of its own becomes that of the maps, for the checks."""
    if has_own_axes:
        return _bring_to_image(painting, volume, path)
    if painting.like is None:
        _check_size(painting, volume.array, path)
        painting.grid, painting.like = volume.grid, path
    check_same_grid(painting.grid, volume.grid, what=f"{path} (found) and {painting.like} (expected)")
    return volume


def _bring_to_image(painting: Painting, volume: LabelVolume, path: Path) -> LabelVolume:
    change = compute_reorientation(volume.grid.orientation_code, painting.grid.orientation_code)
    turned = LabelVolume(array=np.ascontiguousarray(change.apply(volume.array)), grid=change.apply_to_grid(volume.grid))
    _check_size(painting, turned.array, path)
    painting.has_moved = painting.has_moved or bool(list_grid_differences(painting.grid, turned.grid))
    return LabelVolume(array=turned.array, grid=painting.grid)


def _translate(found: LabelMap, values: Mapping[int, int], path: Path) -> LabelMap:
    known = {0: 0} | dict(values)
    present, places = np.unique(found, return_inverse=True)
    unknown = [int(value) for value in present if int(value) not in known]
    if unknown:
        more = " and more" if len(unknown) > MOST_SHOWN_VALUES else ""
        shown = ", ".join(map(str, unknown[:MOST_SHOWN_VALUES]))
        msg = f"{path}: expected the label values {', '.join(map(str, sorted(known)))}, found {shown}{more}"
        raise VolumeError(msg)
    table = np.array([known[int(value)] for value in present], np.int32)
    translated: LabelMap = table[places.reshape(found.shape)]
    return translated


def _read_mask(painting: Painting, path: Path) -> Mask:
    """Reads a black and white picture; what is brighter than half of white is foreground."""
    picture = read_picture(path)
    grey = picture.max(axis=0)
    _check_size(painting, grey, path)
    white = _find_white(grey, path)
    painting.mask_pixels += grey.size
    painting.grey_pixels += int(np.count_nonzero((grey > 0) & (grey < white)))
    foreground: Mask = grey > white / 2
    return foreground


def _find_white(grey: Shaped[np.ndarray, "z y x"], path: Path) -> int:
    """Returns the value of white: 1 in a picture of 0 and 1, else the highest of the integer type.

    JPEG never holds 0 and 1 alone on purpose, but may hold a 1 as an error of black.
    """
    is_lossy = find_ending(path.name) in LOSSY_ENDINGS
    if not np.issubdtype(grey.dtype, np.integer):
        return 1
    return 1 if grey.max() <= 1 and not is_lossy else int(np.iinfo(grey.dtype).max)


def _check_size(painting: Painting, array: Shaped[np.ndarray, "z y x"], path: Path) -> None:
    if array.shape != painting.grid.shape_voxels:
        found, expected = (" x ".join(map(str, shape)) for shape in (array.shape, painting.grid.shape_voxels))
        msg = f"{path} must have the size of its image, {expected} (z, y, x), found {found}"
        raise VolumeError(msg)


def _paint_numbers(painting: Painting, rule: Objects, files: Sequence[Path]) -> None:
    numbers = read_label_map(files[0]).array
    _check_size(painting, numbers, files[0])
    for number in np.unique(numbers[numbers > 0]):
        painting.add_object(numbers == number, rule.label)


def _paint_masks(painting: Painting, rule: Objects, files: Sequence[Path]) -> None:
    for path in files:
        painting.add_object(_read_mask(painting, path), rule.label)


def _paint_polygons(painting: Painting, rule: Objects, files: Sequence[Path]) -> None:
    for polygon in read_aperio_polygons(files[0]):
        box, inside = paint_polygon(polygon, painting.grid.shape_voxels)
        painting.add_object(inside, rule.label, box=box)


PAINTERS: Final[Mapping[str, Callable[[Painting, Objects, Sequence[Path]], None]]] = {
    "numbers": _paint_numbers,
    "masks": _paint_masks,
    "polygons": _paint_polygons,
}
