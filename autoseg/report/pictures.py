"""Slices of a case through its labels, with the labels outlined in colour, as small pictures inside a page."""

import base64
import io
from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from autoseg.report.volumes import ERRORS, CaseVolumes

COLOURS: Final = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167),
    (118, 183, 178), (176, 122, 161), (255, 157, 167), (156, 117, 95), (140, 209, 125), (120, 140, 255),
)  # fmt: skip
"""Colours of labels: those of Okabe and Ito, which colour-blind people tell apart, then others; repeated."""
ERROR_COLOURS: Final = ((255, 74, 74), (72, 140, 255), (255, 214, 10))
"""Missed, false, of another class."""
TILE_PIXELS: Final = 168
FILL_OPACITY: Final = 0.38
PLANES: Final = ((0, "axial"), (1, "coronal"), (2, "sagittal"))


def find_colour(label: int, *, is_error: bool = False) -> tuple[int, int, int]:
    """Returns the colour of a label, as red, green and blue from 0 to 255."""
    colours = ERROR_COLOURS if is_error else COLOURS
    return colours[(label - 1) % len(colours)]


def draw_slices(volumes: CaseVolumes, layer: str | None, *, pixels: int = TILE_PIXELS) -> str:
    """Draws the slices of all planes side by side, and returns the picture as a data URI.

    Args:
        volumes: A prepared case.
        layer: The label map that is drawn over the image; None for the image alone.
        pixels: Largest extent of a slice.
    """
    tiles = [_draw_tile(volumes, layer, axis, pixels) for axis, _ in list_planes(volumes)]
    height = max(tile.height for tile in tiles)
    sheet = Image.new("RGB", (sum(tile.width for tile in tiles) + 4 * (len(tiles) - 1), height))
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, (height - tile.height) // 2))
        left += tile.width + 4
    stream = io.BytesIO()
    sheet.save(stream, "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def list_planes(volumes: CaseVolumes) -> tuple[tuple[int, str], ...]:
    """Lists the planes that a case has; pictures have one."""
    return PLANES if volumes.grid.shape_voxels[0] > 1 else PLANES[:1]


def locate_slices(volumes: CaseVolumes) -> tuple[int, int, int]:
    """Finds the slice along each axis that shows most of the errors, else of the labels; else the middle one."""
    errors = volumes.label_maps.get(ERRORS)
    marked = [errors] if errors is not None and errors.any() else list(volumes.label_maps.values())
    counts = np.sum([array > 0 for array in marked], axis=0) if marked else np.zeros((1, 1, 1), int)
    if not np.any(counts):
        depth, height, width = volumes.grid.shape_voxels
        return depth // 2, height // 2, width // 2
    first, second, third = (
        int(np.argmax(counts.sum(axis=tuple(other for other in range(3) if other != axis)))) for axis in range(3)
    )
    return first, second, third


def _draw_tile(volumes: CaseVolumes, layer: str | None, axis: int, pixels: int) -> Image.Image:
    place = locate_slices(volumes)[axis]
    plane = np.zeros((*_cut(np.zeros(volumes.grid.shape_voxels, np.uint8), axis, place).shape, 3), np.uint8)
    if volumes.image is not None:
        channels = [_cut(channel, axis, place) for channel in volumes.image]
        plane = np.stack(channels if len(channels) == 3 else channels[:1] * 3, axis=-1)
    height_mm, width_mm = (
        extent * spacing
        for extent, spacing in zip(
            plane.shape, [value for other, value in enumerate(volumes.grid.spacing_mm) if other != axis], strict=False
        )
    )
    scale = pixels / max(height_mm, width_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    picture = Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)
    if layer is None or layer not in volumes.label_maps:
        return picture
    labels = Image.fromarray(_cut(volumes.label_maps[layer], axis, place)).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(_paint(np.asarray(picture), np.asarray(labels), is_error=layer == ERRORS))


def _cut(array: UInt8[np.ndarray, "z y x"], axis: int, place: int) -> UInt8[np.ndarray, "row column"]:
    """Cuts a slice, with the head above."""
    plane: UInt8[np.ndarray, "row column"] = np.take(array, place, axis=axis)
    return np.ascontiguousarray(plane if axis == 0 else plane[::-1])


def _paint(picture: np.ndarray, labels: np.ndarray, *, is_error: bool) -> np.ndarray:
    """Fills every label with a transparent colour and draws its border."""
    painted = picture.astype(np.float32)
    for label in _list_labels(labels):
        colour = np.array(find_colour(label, is_error=is_error), np.float32)
        inside = labels == label
        border = inside & ~_erode(inside)
        opacity = 0.85 if is_error else FILL_OPACITY
        painted[inside] = (1 - opacity) * painted[inside] + opacity * colour
        painted[border] = colour
    rounded: np.ndarray = np.clip(np.rint(painted), 0, 255).astype(np.uint8)
    return rounded


def _list_labels(labels: np.ndarray) -> Iterator[int]:
    return (int(label) for label in np.unique(labels) if label)


def _erode(inside: np.ndarray) -> np.ndarray:
    padded = np.pad(inside, 1)
    kept: np.ndarray = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return kept
