"""Reads and writes PNG, BMP and JPEG through Pillow."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Shaped, UInt8

from autoseg.errors import VolumeError
from autoseg.geometry import Direction, Grid
from autoseg.run_folder import write_atomically
from autoseg.volume_io.formats.exif import build_exif, read_direction
from autoseg.volume_io.formats.headers.sizes import check_size
from autoseg.volume_io.formats.volumes import PICTURE_SPACING_MM, StoredVolume

# Pillow scales greys of 2 and 4 bits to 0..255 and truncates colours of 16 bits to 8; the decoder's mode shows it.
STRETCHED_GREYS: Final = {"L;2": 85, "L;4": 17}
CUT_COLOURS: Final = ("RGB;16B", "RGBA;16B")
CUT_GREY: Final = "LA;16B"
READ_KINDS: Final = ("PNG", "JPEG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP")
WIDE_MODES: Final = ("I", "F")
MORE_THAN_DEFLATE: Final = 8  # times, as JPEG and GIF may expand
PIXELS_PER_BYTE: Final = {"1": 8, "P;1": 8, "P;2": 4, "L;2": 4, "P;4": 2, "L;4": 2}  # of a PNG, by the decoder's mode
UNBOUNDED_KINDS: Final = ("TIFF", "WEBP")  # some of their codecs write flat areas of any size in a few bytes
_LIMIT_LOCK: Final = threading.Lock()
GREY_MODES: Final = ("L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")

WRITABLE_TYPES: Final[dict[str, tuple[str, ...]]] = {".png": ("uint8", "uint16"), ".bmp": ("uint8",)}


def read(path: Path, *, as_labels: bool) -> StoredVolume:
    """Reads grey, colour (3 channels, alpha dropped) or palette pictures."""
    with open_picture(path, compares_memory=True) as image:
        direction = read_direction(image, path)
        decoder = _find_decoder_mode(image)
        if decoder == CUT_GREY:
            msg = f"{path}: greys of 16 bits with transparency would lose 8 bits; save the picture without transparency"
            raise VolumeError(msg)
        if decoder in CUT_COLOURS:
            array = _read_precise_colours(path)
        else:
            array = decode(image, as_labels=as_labels)
            if as_labels:
                array = array // STRETCHED_GREYS.get(decoder, 1)
    if as_labels:
        array = _merge_equal_channels(array)
    return StoredVolume(array=array[:, None], grid=_build_grid(array.shape[1:], direction))


def read_grid(path: Path) -> Grid:
    """Reads the header."""
    with open_picture(path) as image:
        return _build_grid((image.height, image.width), read_direction(image, path))


def write(path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> None:
    """Writes a grey picture."""
    from PIL import Image

    del like  # a picture has no header for its position
    ending = path.suffix.lower()
    kinds = WRITABLE_TYPES.get(ending, ())
    if array.shape[0] != 1 or array.dtype.name not in kinds:
        msg = (
            f"cannot write {path}: {ending} holds label maps of one slice and the types {' '.join(kinds) or '(none)'}, "
            f"found {array.shape[0]} slices of {array.dtype}; write .png (values 0 to 65535), .tif or .nii.gz"
        )
        raise VolumeError(msg)
    content = io.BytesIO()  # Pillow writes some formats to files without noticing that a disk is full
    Image.fromarray(array[0]).save(content, format=ending[1:].upper(), exif=build_exif(grid))
    with write_atomically(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def write_colours(path: Path, picture: UInt8[np.ndarray, "channel y x"], *, grid: Grid) -> None:
    """Writes a picture of red, green and blue as PNG, atomically.

    Raises:
        RunError: The file cannot be written.
    """
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, -1))).save(
        content, format="PNG", exif=build_exif(grid)
    )
    with write_atomically(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def build(path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> Any:
    """Returns the picture as an array (y, x)."""
    del path, grid, like
    return array[0]


@contextmanager
def open_picture(path: Path, *, compares_memory: bool = False) -> Iterator[Any]:
    """Opens a picture of the usual kinds, whatever its ending says, if its size is one that its bytes can hold.

    Raises:
        VolumeError: It would not fit into memory, or expand more than an image can.
    """
    from PIL import Image

    with _LIMIT_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # it warns of whole slides
        try:
            image = Image.open(path, formats=READ_KINDS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        check_size(
            path,
            (image.height, image.width, len(image.getbands())),
            voxel_bytes=_find_sample_bytes(image),
            stored_bytes=_count_stored_bytes(image, path),
            is_compressed=True,
            compares_memory=compares_memory,
        )
        yield image


def _find_sample_bytes(image: Any) -> int:
    """Returns the bytes of a channel of a pixel; pixels that share a byte count as one byte each."""
    if image.mode in WIDE_MODES:
        return 4
    return 2 if "16" in _find_decoder_mode(image) else 1


def _count_stored_bytes(image: Any, path: Path) -> int | None:
    """Returns the bytes of the file, times the pixels in a byte; None where they say nothing about the pixels."""
    if image.format in UNBOUNDED_KINDS:
        return None
    pixels = PIXELS_PER_BYTE.get(_find_decoder_mode(image), 1) if image.format == "PNG" else MORE_THAN_DEFLATE
    return path.stat().st_size * pixels


def decode(image: Any, *, as_labels: bool) -> Shaped[np.ndarray, "channel y x"]:
    """Decodes a Pillow image into channels; palette indices are kept for labels and become colours for images."""
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)[None]
    if image.mode in GREY_MODES:
        return np.asarray(image)[None]
    if image.mode == "LA":
        return np.asarray(image.getchannel("L"))[None]
    if image.mode == "P" and as_labels:
        return np.asarray(image)[None]
    colours: Shaped[np.ndarray, "channel y x"] = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    return colours


def _find_decoder_mode(image: Any) -> str:
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _read_precise_colours(path: Path) -> Shaped[np.ndarray, "channel y x"]:
    import SimpleITK

    array: Shaped[np.ndarray, "channel y x"]
    array = np.moveaxis(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), -1, 0)
    return array[:3]


def _merge_equal_channels(array: Shaped[np.ndarray, "channel y x"]) -> Shaped[np.ndarray, "merged y x"]:
    """Merges the equal channels of greys that were saved as colours."""
    return array[:1] if (array == array[:1]).all() else array


def _build_grid(shape: tuple[int, ...], direction: Direction) -> Grid:
    return Grid(
        shape_voxels=(1, shape[0], shape[1]),
        spacing_mm=PICTURE_SPACING_MM,
        direction=direction,
        is_oriented=False,
        tells_spacing=False,
    )
