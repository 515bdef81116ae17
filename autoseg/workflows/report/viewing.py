"""Writes a page with the viewer for any image and label maps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Final

import numpy as np

from autoseg.dicom_files import is_dicom, is_series_folder
from autoseg.errors import RunError, VolumeError
from autoseg.file_endings import strip_ending
from autoseg.geometry import Grid
from autoseg.remote.mirror import find_location
from autoseg.report.blocks import Facts, Gallery, Section
from autoseg.report.page import MOST_VOLUME_BYTES, Page, ShownCase, is_page
from autoseg.report.pictures import draw_slices, find_colour
from autoseg.report.volumes import ERRORS, CaseVolumes
from autoseg.volume_io import LabelVolume, Volume, check_same_grid, read_image, read_label_map
from autoseg.volume_io.dicom import (
    DicomSeries,
    find_series,
    is_segmentation,
    list_series,
    read_segmentation,
    read_stack,
    select_series,
    stack_slices,
)
from autoseg.volume_io.formats.volumes import is_planar

PIXELS: Final = 320
TAKEN_NAMES: Final = ("image", ERRORS)  # of layers that a page shows in a way of their own


def write_view(image: Path, label_maps: Sequence[Path], out: Path, *, series: str | None = None) -> int:
    """Writes a page that shows an image with label maps on it, and returns its size in bytes.

    Args:
        image: An image file, or a folder of DICOM or a slice of it, of which the page does not tell the name.
        label_maps: Label maps, or DICOM segmentations, on the grid of the image.
        out: The page.
        series: UID, number or description of the DICOM series, where there are several in the folder.

    Raises:
        VolumeError: A file cannot be read, or a label map lies on another grid than the image.
        PredictionError: A DICOM segmentation needs pydicom, which is not installed.
        RunError: The page cannot be written, or would replace another file.
    """
    if out.exists() and any(path.exists() and path.samefile(out) for path in (image, *label_maps)):
        msg = f"{out} is one of the files that are to be shown, and the page would replace it; give another --out"
        raise RunError(msg)
    if out.is_file() and not is_page(out):
        msg = f"{out} is no page of autoseg, and would be replaced; give another --out, or remove it"
        raise RunError(msg)
    return build_view(image, label_maps, series=series).write(out)


def build_view(image: Path, label_maps: Sequence[Path], *, series: str | None = None) -> Page:
    """Builds the page of an image with label maps on it."""
    name, described, volume = _open_image(image, series)
    label_maps = tuple(dict.fromkeys(label_maps))
    stored = {_name_layer(path, label_maps): _read_labels(path, volume.grid) for path in label_maps}
    for path, labels in zip(label_maps, stored.values(), strict=True):
        if labels.grid.shape_voxels != volume.grid.shape_voxels:
            msg = (
                f"{path}: expected the grid of the image {image} ({volume.grid.describe()}), found "
                f"{labels.grid.describe()}; resample it onto the image"
            )
            raise VolumeError(msg)
        _check_place(labels.grid, volume.grid, what=f"{path} (found) and the image {image} (expected)")
    values = sorted({int(value) for labels in stored.values() for value in np.unique(labels.array)} - {0})
    encoded = {name: np.searchsorted([0, *values], labels.array) for name, labels in stored.items()}
    is_picture = len(volume.array) == 3 and not volume.grid.is_oriented
    whole = CaseVolumes(image=volume.array if is_picture else volume.array[:1], label_maps=encoded, grid=volume.grid)
    prepared = whole.prepare()
    case = ShownCase(
        key=name,
        name=name,
        pictures=[(layer or "image", draw_slices(prepared, layer, pixels=PIXELS)) for layer in (encoded or (None,))],
        volumes=prepared.encode_all(most_bytes=MOST_VOLUME_BYTES),
    )
    facts = Facts([("Image", described), ("Grid", volume.grid.describe()), *_list_shown(prepared)])
    section = Section("view", "", "", [Gallery("", [(name, "")]), facts])
    return Page(
        title=name,
        subtitle=", ".join(path.name for path in label_maps) or "image without label maps",
        sections=[section],
        cases=[case],
        label_names=list(map(str, values)),
        colours=[find_colour(label) for label in range(1, len(values) + 1)],
    )


def _check_place(labels: Grid, image: Grid, *, what: str) -> None:
    """Checks that a label map lies where the image does; a single slice in plane alone, as files of one may leave out
    how thick it is.
    """
    if image.shape_voxels[0] == 1 and not is_planar(image) and not is_planar(labels):
        labels = replace(labels, spacing_mm=(image.spacing_mm[0], *labels.spacing_mm[1:]))
    if labels.is_oriented and image.is_oriented:
        check_same_grid(image, labels, what=what)


def _open_image(image: Path, wanted: str | None) -> tuple[str, str, Volume]:
    """Opens an image file or a series; returns its name, how the page describes it, and the volume."""
    series = _find_series(image, wanted)
    if series is None:
        return strip_ending(image.name), image.name, read_image([image])
    try:
        return series.uid, series.describe(), read_stack(stack_slices(series))
    except VolumeError as error:
        msg = f"{series.describe()}: {error}"
        raise VolumeError(msg) from error


def _find_series(image: Path, wanted: str | None) -> DicomSeries | None:
    """Finds the DICOM series of a folder, or the one that a file is a slice of; None for any other image."""
    if image.is_dir():
        return None if wanted is None and is_series_folder(image) else _choose_series(image, wanted)
    if wanted is not None:
        msg = f"--series chooses among the DICOM series of a folder, but {image} is none; leave it out, or give one"
        raise VolumeError(msg)
    own = find_series(image).series if is_dicom(image) else ()
    if not own or own[0].slices[0].frame_count > 1 or own[0].slices[0].position_mm is None:
        return own[0] if own else None
    return next(one for one in find_series(image.parent).series if one.uid == own[0].uid)


def _choose_series(folder: Path, wanted: str | None) -> DicomSeries:
    found = find_series(folder)
    if found.unreadable:
        path, reason = next(iter(found.unreadable.items()))
        msg = (
            f"{len(found.unreadable)} files in {folder} cannot be read, such as {path.name} ({reason}); copy them again"
        )
        raise VolumeError(msg)
    chosen = found.series if wanted is None else select_series(found.series, wanted)
    if len(chosen) != 1:
        advice = "name one of them with --series" if chosen else "give an image file, or a folder that holds a series"
        msg = f"expected one DICOM series in {folder}, found {list_series(chosen)}; {advice}"
        raise VolumeError(msg)
    return chosen[0]


def _read_labels(path: Path, grid: Grid) -> LabelVolume:
    return read_segmentation(path, grid) if is_segmentation(path) else read_label_map(path)


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
