"""Handles the EXIF orientation of photographs: how a picture is to be turned or mirrored to be shown upright.

Pictures are read as they are stored. Their direction tells how the stored axes lie in the upright picture, so that an
image and a label map fit only if both are to be turned alike. What is written gets the orientation of its grid.
"""

import logging
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Shaped

from autoseg.errors import VolumeError
from autoseg.geometry import Direction, FloatTriple, Grid, compute_orientation_code, compute_reorientation
from autoseg.volume_io.formats.volumes import LabelVolume

LOGGER = logging.getLogger(__name__)

UPRIGHT: Final = 1
ORIENTATION_TAG: Final = 0x0112
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
PNG_EXIF: Final = b"eXIf"
RIGHT: Final[FloatTriple] = (1.0, 0.0, 0.0)
LEFT: Final[FloatTriple] = (-1.0, 0.0, 0.0)
DOWN: Final[FloatTriple] = (0.0, 1.0, 0.0)
UP: Final[FloatTriple] = (0.0, -1.0, 0.0)
ACROSS: Final[FloatTriple] = (0.0, 0.0, 1.0)

# CIPA DC-008 (Exif), tag 274: where the first row and the first column are seen. Directions of z, y and x.
DIRECTIONS: Final[dict[int, Direction]] = {
    1: (ACROSS, DOWN, RIGHT),
    2: (ACROSS, DOWN, LEFT),
    3: (ACROSS, UP, LEFT),
    4: (ACROSS, UP, RIGHT),
    5: (ACROSS, RIGHT, DOWN),
    6: (ACROSS, LEFT, DOWN),
    7: (ACROSS, LEFT, UP),
    8: (ACROSS, RIGHT, UP),
}
TURNS: Final = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "mirrored upside down",
    5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees",
    7: "mirrored and turned by 90 degrees",
    8: "turned by 90 degrees",
}


def read_direction(image: Any, path: Path) -> Direction:
    """Returns the direction of an opened Pillow image; upright where it has no orientation."""
    return DIRECTIONS[_read_orientation(image, path)]


def find_orientation(grid: Grid) -> int:
    """Returns the orientation of the grid of a picture."""
    return next((number for number, direction in DIRECTIONS.items() if direction == grid.direction), UPRIGHT)


def build_exif(grid: Grid) -> bytes:
    """Builds the EXIF data of a picture; empty if it is upright."""
    from PIL import Image

    orientation = find_orientation(grid)
    if orientation == UPRIGHT:
        return b""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return bytes(exif.tobytes())


def turn_to_stored(shown: Shaped[np.ndarray, "channel z y x"], direction: Direction) -> Shaped[np.ndarray, "..."]:
    """Undoes the turn of a picture that a library has turned upright (Pillow does so for TIFF alone)."""
    upright = compute_orientation_code(DIRECTIONS[UPRIGHT])
    return compute_reorientation(upright, compute_orientation_code(direction)).apply(shown)


def turn_like_image(label_map: LabelVolume, grid: Grid, *, what: str) -> LabelVolume:
    """Brings the label map of a picture to the stored axes of its image, where only one of the two is to be turned.

    A label map without orientation may have been drawn on the picture as it is stored, or as it is shown. Where height
    and width differ, the shape tells which.

    Raises:
        VolumeError: It cannot be told.
    """
    found = label_map.grid
    if found.is_oriented or grid.is_oriented or found.direction == grid.direction:
        return label_map
    turn = compute_reorientation(found.orientation_code, grid.orientation_code)
    turned = turn.apply_to_grid(found)
    if turned.shape_voxels == grid.shape_voxels != found.shape_voxels:
        return LabelVolume(array=turn.apply(label_map.array).copy(), grid=grid)
    if found.shape_voxels == grid.shape_voxels != turned.shape_voxels and find_orientation(found) == UPRIGHT:
        return LabelVolume(array=label_map.array, grid=grid)
    msg = (
        f"{what}: by its EXIF orientation the image is to be shown {_describe(grid)}, the label map "
        f"{_describe(found)}, so that it is unknown whether they fit as stored or as shown; save both upright without "
        f"this tag (such as mogrify -auto-orient), or remove it from both if they fit as stored (exiftool "
        f"-Orientation=)"
    )
    raise VolumeError(msg)


def _describe(grid: Grid) -> str:
    return TURNS.get(find_orientation(grid), "as stored")


def _read_orientation(image: Any, path: Path) -> int:
    """Reads the tag without decoding the picture; damaged EXIF data counts as none, with a warning."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other tags
            if image.format == "PNG":
                exif = Image.Exif()
                exif.load(_read_png_exif(path))
            else:
                exif = image.getexif()
            orientation = exif.get(ORIENTATION_TAG, UPRIGHT)
    except Exception as error:
        LOGGER.warning("%s: the EXIF data cannot be read (%s); the picture is taken as upright", path, error)
        return UPRIGHT
    return orientation if isinstance(orientation, int) and orientation in DIRECTIONS else UPRIGHT


def _read_png_exif(path: Path) -> bytes:
    """Returns the EXIF data of a PNG file, which may stand before or after its pixels."""
    with path.open("rb") as stream:
        if stream.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            return b""
        while len(start := stream.read(8)) == 8:
            length = int.from_bytes(start[:4], "big")
            if start[4:] == PNG_EXIF:
                return stream.read(length)
            stream.seek(length + 4, 1)  # the checksum has 4 bytes
    return b""
