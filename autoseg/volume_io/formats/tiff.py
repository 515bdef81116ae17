"""Reads and writes TIFF through tifffile: pictures (grey, colour) and stacks of pages.

Three equal pages and one colour picture have the same array shape; the axes that tifffile derives from the tags (S for
the samples of a pixel) tell them apart. The spacing of a stack is in `<case>.json` beside it: `{"spacing": [z, y, x]}`.
"""

import functools
import json
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Shaped

from autoseg.errors import DocumentError, VolumeError
from autoseg.file_endings import strip_ending
from autoseg.geometry import Direction, FloatTriple, Grid
from autoseg.run_folder import write_atomically, write_text
from autoseg.untrusted.json_reading import read_json
from autoseg.volume_io.formats.exif import DIRECTIONS, ORIENTATION_TAG, UPRIGHT, find_orientation, turn_to_stored
from autoseg.volume_io.formats.headers.sizes import check_size
from autoseg.volume_io.formats.pictures import decode, open_picture
from autoseg.volume_io.formats.volumes import PICTURE_SPACING_MM, StoredVolume

LOGGER = logging.getLogger(__name__)

STACK_SPACING_MM: Final[FloatTriple] = (1.0, 1.0, 1.0)
CHANNEL_SUFFIX: Final = re.compile(r"_\d{4}$")
ALPHA_SAMPLES: Final = (1, 2)  # values of the tag ExtraSamples
# Values of the tag Compression; the codecs that are not listed write flat areas of any size in a few bytes.
UNCOMPRESSED: Final = 1
BOUNDED_CODECS: Final = (UNCOMPRESSED, 5, 7, 8, 32773, 32946)  # LZW, JPEG, DEFLATE, PackBits, DEFLATE
MOST_PAGES: Final = 2**16
MOST_TAGS: Final = 4096  # of a page, as tifffile reads
PALETTE: Final = 3  # value of the tag PhotometricInterpretation


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Positions of the axes in the array of a series; None where there is no such axis."""

    channel: int | None
    stack: int | None
    y: int
    x: int

    def arrange(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "channel z y x"]:
        """Brings the axes into the order channel, z, y, x."""
        wanted = [axis for axis in (self.channel, self.stack, self.y, self.x) if axis is not None]
        dropped = [axis for axis in range(array.ndim) if axis not in wanted]
        array = array.transpose((*dropped, *wanted)).reshape([array.shape[axis] for axis in wanted])
        if self.stack is None:
            array = array[..., None, :, :]
        return array[None] if self.channel is None else array


def read(path: Path, *, as_labels: bool) -> StoredVolume:
    """Reads all pages."""
    with _open_file(path) as file:
        series = _get_only_series(file, path)
        layout = _find_layout(series, path)
        _check_size(path, series, compares_memory=True)
        try:
            array = layout.arrange(series.asarray())
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            shown = _read_with_pillow(path, layout, as_labels=as_labels)
            array = turn_to_stored(shown, _read_direction(series))
        else:
            array = _drop_alpha(array, series.keyframe)
            if series.keyframe.photometric == PALETTE and not as_labels:
                array = _apply_palette(array, series.keyframe)
        direction = _read_direction(series)
    return StoredVolume(array=array, grid=_build_grid(path, array.shape[1:], direction))


def read_grid(path: Path) -> Grid:
    """Reads the tags."""
    with _open_file(path) as file:
        series = _get_only_series(file, path)
        layout = _find_layout(series, path)
        _check_size(path, series, compares_memory=False)
        depth = 1 if layout.stack is None else series.shape[layout.stack]
        return _build_grid(path, (depth, series.shape[layout.y], series.shape[layout.x]), _read_direction(series))


def write(path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> None:
    """Writes one page per slice, and the spacing beside it unless it is that of a picture."""
    import tifffile

    del like
    orientation = find_orientation(grid)
    is_picture = grid.shape_voxels[0] == 1 and grid.spacing_mm == PICTURE_SPACING_MM
    if not is_picture:
        write_text(path.parent / f"{strip_ending(path.name)}.json", json.dumps({"spacing": grid.spacing_mm}) + "\n")
    with write_atomically(path) as temporary:
        tifffile.imwrite(
            temporary,
            array[0] if is_picture else array,
            photometric="minisblack",
            compression="zlib",
            extratags=[] if orientation == UPRIGHT else [(ORIENTATION_TAG, "H", 1, orientation, True)],
        )


def build(path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> Any:
    """Returns one page as an array (y, x), several as (z, y, x)."""
    del path, grid, like
    return array[0] if len(array) == 1 else array


def _open_file(path: Path) -> Any:
    """Opens a file whose pages are few enough; pages in other files, which it may name, are not read."""
    import tifffile

    _check_page_count(path)
    return tifffile.TiffFile(path, _multifile=False)


def _check_page_count(path: Path) -> None:
    """Counts the pages by the chain of their offsets, which takes microseconds, and none of them is decoded."""
    with path.open("rb") as stream:
        start = stream.read(16)
        order: Literal["little", "big"] = "big" if start[:2] == b"MM" else "little"
        is_big = start[2:4] in (b"\x2b\x00", b"\x00\x2b")
        count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if is_big else (2, 12, 4)
        offset = int.from_bytes(start[8:16] if is_big else start[4:8], order)
        for _ in range(MOST_PAGES):
            if not 0 < offset < 2**62:
                return
            stream.seek(offset)
            entries = int.from_bytes(stream.read(count_bytes), order)
            if entries > MOST_TAGS:
                return  # tifffile refuses it
            stream.seek(offset + count_bytes + entries * entry_bytes)
            offset = int.from_bytes(stream.read(offset_bytes), order)
    msg = f"{path}: expected at most {MOST_PAGES} pages, found more (or a page that follows itself); split the file"
    raise VolumeError(msg)


def _check_size(path: Path, series: Any, *, compares_memory: bool) -> None:
    page = series.keyframe
    codec = int(page.compression)
    is_packed, is_compressed = page.bitspersample < 8, codec != UNCOMPRESSED
    bounded_bytes = path.stat().st_size * (8 if is_packed or is_compressed else 1)
    check_size(
        path,
        series.shape,
        voxel_bytes=1 if is_packed else series.dtype.itemsize,
        stored_bytes=bounded_bytes if codec in BOUNDED_CODECS else None,
        is_compressed=is_compressed,
        compares_memory=compares_memory,
    )


def _get_only_series(file: Any, path: Path) -> Any:
    if len(file.series) != 1:
        msg = f"{path}: expected one image or one stack of equal pages, found {len(file.series)} images; split the file"
        raise VolumeError(msg)
    series = file.series[0]
    if file.is_ome and series.kind != "ome":
        LOGGER.warning("%s: its description names pages in other files, of which none is read", path)
    return series


def _find_layout(series: Any, path: Path) -> _Layout:
    sizes = list(zip(series.axes, series.shape, strict=True))
    channel = [position for position, (axis, extent) in enumerate(sizes) if axis in "SC" and extent > 1]
    stack = [position for position, (axis, extent) in enumerate(sizes) if axis not in "SCYX" and extent > 1]
    if len(channel) > 1 or len(stack) > 1 or series.axes.count("Y") != 1 or series.axes.count("X") != 1:
        msg = f"{path}: expected y, x and at most one axis of pages and of channels, found {sizes}; split the file"
        raise VolumeError(msg)
    return _Layout(
        channel=channel[0] if channel else None,
        stack=stack[0] if stack else None,
        y=series.axes.index("Y"),
        x=series.axes.index("X"),
    )


def _drop_alpha(array: Shaped[np.ndarray, "channel z y x"], page: Any) -> Shaped[np.ndarray, "remaining z y x"]:
    alpha_count = sum(int(sample) in ALPHA_SAMPLES for sample in page.extrasamples)
    return array[: array.shape[0] - alpha_count]


def _apply_palette(array: Shaped[np.ndarray, "1 z y x"], page: Any) -> Shaped[np.ndarray, "3 z y x"]:
    colours: Shaped[np.ndarray, "3 values"] = (page.colormap >> 8).astype(np.uint8)  # stored as 16 bits
    return colours[:, array[0]]


def _read_with_pillow(path: Path, layout: _Layout, *, as_labels: bool) -> Shaped[np.ndarray, "channel z y x"]:
    """Reads LZW and JPEG compression, which tifffile alone cannot."""
    from PIL import ImageSequence

    with open_picture(path) as image:
        pages = [decode(page, as_labels=as_labels) for page in ImageSequence.Iterator(image)]
    if layout.channel is not None and len(pages) > 1 and layout.stack is None:
        return np.concatenate(pages)[:, None]  # one page per channel
    return np.stack(pages, axis=1)


def _read_direction(series: Any) -> Direction:
    tag = series.keyframe.tags.get(ORIENTATION_TAG)
    return DIRECTIONS.get(UPRIGHT if tag is None else tag.value, DIRECTIONS[UPRIGHT])


def _build_grid(path: Path, shape: tuple[int, ...], direction: Direction) -> Grid:
    depth, height, width = shape
    spacing = _read_spacing(path)
    if spacing is None and depth > 1 and LOGGER.isEnabledFor(logging.WARNING):
        _warn_of_pixels(path)
    default = PICTURE_SPACING_MM if depth == 1 else STACK_SPACING_MM
    return Grid(
        shape_voxels=(depth, height, width),
        spacing_mm=spacing or default,
        direction=direction,
        is_oriented=False,
        tells_spacing=spacing is not None,
    )


@functools.lru_cache(maxsize=4096)
def _warn_of_pixels(path: Path) -> None:
    """Warns of a stack without a spacing, once per process and file."""
    LOGGER.warning("%s: no spacing in %s.json beside it; lengths are in pixels", path, strip_ending(path.name))


def _read_spacing(path: Path) -> FloatTriple | None:
    case = strip_ending(path.name)
    candidates = (path.parent / f"{name}.json" for name in (case, CHANNEL_SUFFIX.sub("", case)))
    sidecar = next((candidate for candidate in candidates if candidate.is_file()), None)
    if sidecar is None:
        return None
    try:
        z, y, x = (float(value) for value in read_json(sidecar)["spacing"])
    except DocumentError as error:
        msg = f'{error}; {sidecar.name} must hold {{"spacing": [z, y, x]}} in millimetres'
        raise VolumeError(msg) from error
    except (ValueError, TypeError, KeyError) as error:
        msg = f'{sidecar} must hold {{"spacing": [z, y, x]}} in millimetres'
        raise VolumeError(msg) from error
    if not all(0 < value < math.inf for value in (z, y, x)):
        msg = f"{sidecar}: the spacing must be three finite millimetres above 0, found {z:g}, {y:g}, {x:g}"
        raise VolumeError(msg)
    return (z, y, x)
