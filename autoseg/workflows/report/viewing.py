"""Writes a page with the viewer for any image and label maps."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

import numpy as np

from autoseg.errors import RunError, VolumeError
from autoseg.file_endings import strip_ending
from autoseg.remote.mirror import find_location
from autoseg.report.blocks import Facts, Gallery, Section
from autoseg.report.page import MOST_VOLUME_BYTES, Page, ShownCase
from autoseg.report.pictures import draw_slices, find_colour
from autoseg.report.volumes import ERRORS, CaseVolumes
from autoseg.volume_io import read_image, read_label_map

PIXELS: Final = 320
TAKEN_NAMES: Final = ("image", ERRORS)  # of layers that a page shows in a way of their own


def write_view(image: Path, label_maps: Sequence[Path], out: Path) -> int:
    """Writes a page that shows an image with label maps on it, and returns its size in bytes.

    Raises:
        VolumeError: A file cannot be read, or a label map has another shape than the image.
        RunError: The page cannot be written, or would replace one of the files.
    """
    if out.exists() and any(path.exists() and path.samefile(out) for path in (image, *label_maps)):
        msg = f"{out} is one of the files that are to be shown, and the page would replace it; give another --out"
        raise RunError(msg)
    return build_view(image, label_maps).write(out)


def build_view(image: Path, label_maps: Sequence[Path]) -> Page:
    """Builds the page of an image with label maps on it."""
    volume = read_image([image])
    label_maps = tuple(dict.fromkeys(label_maps))
    stored = {_name_layer(path, label_maps): read_label_map(path) for path in label_maps}
    for path, labels in zip(label_maps, stored.values(), strict=True):
        if labels.grid.shape_voxels != volume.grid.shape_voxels:
            msg = (
                f"{path}: expected the grid of the image {image} ({volume.grid.describe()}), found "
                f"{labels.grid.describe()}; resample it onto the image"
            )
            raise VolumeError(msg)
    values = sorted({int(value) for labels in stored.values() for value in np.unique(labels.array)} - {0})
    encoded = {name: np.searchsorted([0, *values], labels.array) for name, labels in stored.items()}
    is_picture = len(volume.array) == 3 and not volume.grid.is_oriented
    whole = CaseVolumes(image=volume.array if is_picture else volume.array[:1], label_maps=encoded, grid=volume.grid)
    prepared = whole.prepare()
    name = strip_ending(image.name)
    case = ShownCase(
        key=name,
        name=name,
        pictures=[(layer or "image", draw_slices(prepared, layer, pixels=PIXELS)) for layer in (encoded or (None,))],
        volumes=prepared.encode_all(most_bytes=MOST_VOLUME_BYTES),
    )
    facts = Facts([("Image", image.name), ("Grid", volume.grid.describe()), *_list_shown(prepared)])
    section = Section("view", "", "", [Gallery("", [(name, "")]), facts])
    return Page(
        title=name,
        subtitle=", ".join(path.name for path in label_maps) or "image without label maps",
        sections=[section],
        cases=[case],
        label_names=list(map(str, values)),
        colours=[find_colour(label) for label in range(1, len(values) + 1)],
    )


def _name_layer(path: Path, label_maps: Sequence[Path]) -> str:
    """Names a layer by its file, with its folder or path where two files have one name, or the page uses it."""
    for build in (_get_stem, _name_with_folder):
        names = [build(other) for other in label_maps]
        if names.count(build(path)) == 1 and build(path) not in TAKEN_NAMES:
            return build(path)
    return find_location(path)


def _get_stem(path: Path) -> str:
    return strip_ending(path.name)


def _name_with_folder(path: Path) -> str:
    return f"{PurePath(find_location(path.absolute())).parent.name}/{_get_stem(path)}"


def _list_shown(prepared: CaseVolumes) -> list[tuple[str, str]]:
    shape = " x ".join(map(str, prepared.grid.shape_voxels))
    return [("Shown", f"{shape} voxels around the labels, in 8 bit, coarser where the page would be too large")]
