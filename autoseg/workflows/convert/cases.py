"""Converts one case, in a worker process: links or writes its image, paints and writes its labels."""

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer

from autoseg.dataset.cases import INSTANCES
from autoseg.dataset.folder_cases import IMAGES, LABELS
from autoseg.dataset.layouts.layout import Layout
from autoseg.dataset.layouts.matching import SourceCase
from autoseg.errors import VolumeError
from autoseg.file_endings import find_ending, label_map_ending
from autoseg.files.temporary_files import name_temporary, remove_leftovers_once
from autoseg.geometry import Grid
from autoseg.remote.cache_folder import is_in_cache
from autoseg.remote.local_files import use_local
from autoseg.run_folder import make_folder, translate_write_errors
from autoseg.volume_io import read_grid, read_picture, write_image, write_label_map, write_picture
from autoseg.volume_io.dicom import read_stack
from autoseg.volume_io.dicom.stack import find_only_stack
from autoseg.workflows.convert.masks import Painting, begin_painting, paint_files

TEST_FOLDERS: Final = {IMAGES: "imagesTs", LABELS: "labelsTs", INSTANCES: "instancesTs"}
"""Folders of test cases by those of training cases."""
SLICE_ENDING: Final = ".png"
SERIES_ENDING: Final = ".nii.gz"

Labels = Integer[np.ndarray, "z y x"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedCase:
    """What was written for a case; the slices of a stack are several cases.

    Attributes:
        names: Names of the cases.
        source: The case.
        was_there: Whether an earlier call had written everything; the figures are 0 then.
        object_count: Number of objects.
        crowd_count: Number of masks of several objects.
        empty_count: Number of objects without a pixel.
        shared_pixels: Pixels that two objects claim.
        grey_pixels: Pixels of black and white pictures that are neither.
        mask_pixels: Pixels of black and white pictures.
        has_moved: Whether a label map lay elsewhere and was written on the grid of the image.
    """

    names: tuple[str, ...]
    source: SourceCase
    was_there: bool = False
    object_count: int = 0
    crowd_count: int = 0
    empty_count: int = 0
    shared_pixels: int = 0
    grey_pixels: int = 0
    mask_pixels: int = 0
    has_moved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFiles:
    """The files of a case in the converted dataset.

    Attributes:
        out: Folder of the converted dataset.
        case: The case.
        layout: Layout of the case.
    """

    out: Path
    case: SourceCase
    layout: Layout

    @property
    def image_ending(self) -> str:
        """Ending of the image files."""
        return find_image_ending(self.case, self.layout)

    def place_image(self, name: str, channel: int = 0) -> Path:
        """Returns the path of the file of a channel, or of all channels."""
        return self._place(IMAGES) / f"{name}_{channel:04d}{self.image_ending}"

    def place_labels(self, name: str, folder: str = LABELS) -> Path:
        """Returns the path of the label map, or of the map of numbered objects."""
        return self._place(folder) / f"{name}{label_map_ending(self.image_ending)}"

    def are_complete(self, names: Iterable[str]) -> bool:
        """Returns whether the file exists that is written last, for all names."""
        last_channel = len(self.case.images) - 1
        files = (self.place_labels(n) if self.case.masks else self.place_image(n, last_channel) for n in names)
        return all(path.is_file() for path in files)

    def write_maps(self, name: str, painting: Painting) -> None:
        """Writes the map of numbered objects, if there are any, then the label map."""
        if not self.case.masks:
            return
        maps = {INSTANCES: painting.objects} if self.layout.has_objects else {}
        for folder, label_map in {**maps, LABELS: painting.labels}.items():
            target = self.place_labels(name, folder)
            write_label_map(target, _shrink(label_map), grid=painting.grid, like=painting.like)

    def _place(self, folder: str) -> Path:
        return self.out / (TEST_FOLDERS[folder] if self.case.is_held_out else folder)


def convert_case(case: SourceCase, *, layout: Layout, root: Path, out: Path) -> ConvertedCase:
    """Writes the files of a case, the label map last; what an earlier call finished is left as it is.

    Raises:
        VolumeError: A file cannot be read, or does not fit the image.
        DocumentError: The same of a file of outlines.
        RunError: A file cannot be written.
    """
    target = CaseFiles(out=out, case=case, layout=layout)
    grid = read_source_grid(root / case.images[0])
    names = name_parts(layout.name_case(case.fields), grid, layout)
    if target.are_complete(names):
        return ConvertedCase(names=names, source=case, was_there=True)
    painting = begin_painting(grid)
    for rule, files in case.masks:
        paint_files(painting, rule, [root / file for file in files])
    if layout.slices_per_group:
        _write_slices(target, names, painting, stack=read_picture(root / case.images[0])[0])
    else:
        for channel, file in enumerate(case.images):
            _place_image(root / file, target.place_image(names[0], channel))
        target.write_maps(names[0], painting)
    return ConvertedCase(
        names=names,
        source=case,
        object_count=painting.object_count,
        crowd_count=painting.crowd_count,
        empty_count=painting.empty_count,
        shared_pixels=painting.shared_pixels,
        grey_pixels=painting.grey_pixels,
        mask_pixels=painting.mask_pixels,
        has_moved=painting.has_moved,
    )


def read_source_grid(path: Path) -> Grid:
    """Reads the grid of an image file, or of a folder that holds a DICOM series.

    Raises:
        VolumeError: The image cannot be read, or there is no or more than one series.
    """
    return find_only_stack(path).grid if path.is_dir() else read_grid(path)


def name_parts(name: str, grid: Grid, layout: Layout) -> tuple[str, ...]:
    """Returns the name of a case, or those of the slices that become cases."""
    if not layout.slices_per_group:
        return (name,)
    depth = grid.shape_voxels[0]
    return tuple(f"{name}_{index:0{len(str(depth - 1))}d}" for index in range(depth))


def find_image_ending(case: SourceCase, layout: Layout) -> str:
    """Returns the ending of the images that are written.

    Raises:
        VolumeError: Images of this ending cannot be read.
    """
    if case.images[0].endswith("/"):
        return SERIES_ENDING
    ending = find_ending(case.images[0])
    if ending is None:
        msg = f"{case.images[0]} has an ending that cannot be read; convert it to PNG or NIfTI first"
        raise VolumeError(msg)
    return SLICE_ENDING if layout.slices_per_group else ending


def link_file(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system cannot; replaces an older target."""
    remove_leftovers_once(make_folder(target.parent))
    temporary = name_temporary(target)
    with translate_write_errors(target):
        try:
            _link_or_copy(source.resolve(), temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)  # two names of one file are not replaced by each other


def _place_image(source: Path, target: Path) -> None:
    if source.is_dir():
        volume = read_stack(find_only_stack(source))
        write_image(target, volume.array[0], grid=volume.grid)
    else:
        link_file(source, target)


def _link_or_copy(source: Path, target: Path) -> None:
    """Links a file; a file by URL is copied, for its cache may replace it by a placeholder."""
    if not is_in_cache(source):
        with suppress(OSError):
            os.link(source, target)
            return
    with use_local(source):
        shutil.copyfile(source, target)


def _write_slices(target: CaseFiles, names: Sequence[str], painting: Painting, *, stack: Labels) -> None:
    for index, name in enumerate(names):
        part = painting.cut_slice(index)
        write_picture(target.place_image(name), stack[index : index + 1], grid=part.grid)
        target.write_maps(name, part)


def _shrink(label_map: Labels) -> Labels:
    """Returns a label map in the smallest unsigned type of 8 or 16 bits, or as it is."""
    highest = int(label_map.max(initial=0))
    if highest > np.iinfo(np.uint16).max:
        return label_map
    return label_map.astype(np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)
