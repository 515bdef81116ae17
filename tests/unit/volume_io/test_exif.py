"""EXIF orientation: pictures are read as stored, and a label map must be to be turned like its image."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from autoseg.errors import VolumeError
from autoseg.volume_io import read_grid, read_image, read_label_map, turn_like_image, write_label_map

ORIENTATION = 0x0112
WIDE = np.random.default_rng(0).integers(0, 255, (8, 12), dtype=np.uint8)
SQUARE = WIDE[:, :8]


def save(path: Path, stored: np.ndarray, orientation: int) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(path, stored, extratags=[(ORIENTATION, "H", 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        Image.fromarray(stored).save(path, exif=exif)
    return path


def get_shown(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif"])
def test_a_picture_is_read_as_stored_and_its_label_map_is_shown_like_it(tmp_path, ending, orientation):
    image = save(tmp_path / f"a{ending}", WIDE, orientation)
    volume = read_image([image])
    stored = WIDE
    if ending == ".jpg":
        with Image.open(image) as opened:
            stored = np.asarray(opened)
    np.testing.assert_array_equal(volume.array[0, 0], stored)
    assert read_grid(image) == volume.grid
    for written in (tmp_path / "label.png", tmp_path / "label.tif"):
        write_label_map(written, WIDE[None], grid=volume.grid, like=image)
        assert read_label_map(written).grid == volume.grid
    if ending != ".tif":
        np.testing.assert_array_equal(get_shown(tmp_path / "label.png").shape, get_shown(image).shape)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_shape_tells_whether_a_label_map_was_drawn_on_the_picture_as_shown_or_as_stored(tmp_path, orientation):
    image = save(tmp_path / "image.png", WIDE, orientation)
    grid = read_grid(image)
    for name, drawn in (("shown", get_shown(image)), ("stored", WIDE)):
        Image.fromarray(drawn).save(tmp_path / f"{name}.png")
        fitted = turn_like_image(read_label_map(tmp_path / f"{name}.png"), grid, what=name)
        np.testing.assert_array_equal(fitted.array[0], WIDE)
        assert fitted.grid == grid


@pytest.mark.parametrize(
    ("stored", "orientation"), [*((WIDE, n) for n in (2, 3, 4)), *((SQUARE, n) for n in range(2, 9))]
)
def test_where_the_shape_does_not_tell_the_reason_is_named(tmp_path, stored, orientation):
    grid = read_grid(save(tmp_path / "image.png", stored, orientation))
    Image.fromarray(stored).save(tmp_path / "label.png")
    with pytest.raises(
        VolumeError, match=r"p0: by its EXIF orientation the image is to be shown .* mogrify -auto-orient"
    ):
        turn_like_image(read_label_map(tmp_path / "label.png"), grid, what="p0")
    equally = save(tmp_path / "equally.png", stored, orientation)
    np.testing.assert_array_equal(turn_like_image(read_label_map(equally), grid, what="p0").array[0], stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_compressed_tiff_is_read_as_stored_too_although_pillow_turns_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(WIDE).save(tmp_path / "a.tif", compression="tiff_lzw", exif=exif)
    volume = read_image([tmp_path / "a.tif"])
    np.testing.assert_array_equal(volume.array[0, 0], WIDE)
    assert read_grid(tmp_path / "a.tif") == volume.grid


def test_a_tag_after_the_pixels_counts_too(tmp_path):
    content = save(tmp_path / "a.png", WIDE, 6).read_bytes()
    start = content.index(b"eXIf") - 4
    length = 12 + int.from_bytes(content[start : start + 4], "big")
    end = content.index(b"IEND") - 4
    moved = content[:start] + content[start + length : end] + content[start : start + length] + content[end:]
    (tmp_path / "b.png").write_bytes(moved)
    assert read_grid(tmp_path / "b.png") == read_grid(tmp_path / "a.png")


def test_damaged_exif_data_is_a_warning_and_the_picture_upright(tmp_path, caplog):
    Image.fromarray(WIDE).save(tmp_path / "a.png", exif=b"junk")
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array[0, 0], WIDE)
    assert read_grid(tmp_path / "a.png").direction[1:] == ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    assert "EXIF data cannot be read" in caplog.text
