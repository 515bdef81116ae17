import zlib

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.volume_io import (
    read_grid,
    read_image,
    read_label_map,
    read_picture,
    write_image,
    write_label_map,
    write_picture,
)

RANDOM = np.random.default_rng(3)
GREY = RANDOM.integers(0, 256, (4, 6)).astype(np.uint8)
COLOURS = RANDOM.integers(0, 256, (4, 6, 3)).astype(np.uint8)
ALPHA = RANDOM.integers(0, 256, (4, 6, 1)).astype(np.uint8)
PICTURE_GRID = Grid(shape_voxels=(1, 4, 6), spacing_mm=(999.0, 1.0, 1.0), is_oriented=False, tells_spacing=False)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".PNG"])
def test_grey_and_colour_pictures_are_read(tmp_path, ending):
    Image.fromarray(GREY).save(tmp_path / f"grey{ending}")
    Image.fromarray(COLOURS).save(tmp_path / f"colours{ending}")
    grey, colours = (read_image([tmp_path / f"{name}{ending}"]) for name in ("grey", "colours"))
    np.testing.assert_array_equal(grey.array, GREY[None, None])
    np.testing.assert_array_equal(colours.array, np.moveaxis(COLOURS, -1, 0)[:, None])
    assert colours.array.flags.c_contiguous
    assert grey.grid == colours.grid == read_grid(tmp_path / f"grey{ending}") == PICTURE_GRID


@pytest.mark.parametrize("ending", [".jpg", ".jpeg"])
def test_jpeg_is_read_as_an_image_but_not_as_a_label_map(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    Image.fromarray(COLOURS).save(path, format="JPEG")
    assert read_image([path]).array.shape == (3, 1, 4, 6)
    with pytest.raises(VolumeError, match="JPEG changes label values"):
        read_label_map(path)
    with pytest.raises(VolumeError, match=r"write \.png"):
        write_label_map(path, GREY[None], grid=PICTURE_GRID, like=None)


def test_alpha_is_dropped(tmp_path):
    Image.fromarray(np.concatenate([COLOURS, ALPHA], axis=-1)).save(tmp_path / "rgba.png")
    Image.fromarray(np.concatenate([GREY[..., None], ALPHA], axis=-1)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image([tmp_path / "rgba.png"]).array[:, 0], np.moveaxis(COLOURS, -1, 0))
    np.testing.assert_array_equal(read_image([tmp_path / "la.png"]).array[0, 0], GREY)
    np.testing.assert_array_equal(read_label_map(tmp_path / "la.png").array[0], GREY)


def test_sixteen_bits_are_kept(tmp_path):
    grey = (GREY.astype(np.uint16) << 8) + 7
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image([tmp_path / "grey.png"]).array[0, 0], grey)
    np.testing.assert_array_equal(read_label_map(tmp_path / "grey.png").array[0], grey)


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_sixteen_bits_are_kept(tmp_path, channels):
    values = RANDOM.integers(0, 2**16, (4, 6, channels)).astype(np.uint16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values, isVector=True), str(tmp_path / "a.png"))
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array[:, 0], np.moveaxis(values[..., :3], -1, 0))


def test_greys_of_sixteen_bits_with_transparency_are_refused(tmp_path):
    values = RANDOM.integers(0, 2**16, (4, 6, 2)).astype(np.uint16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values, isVector=True), str(tmp_path / "a.png"))
    with pytest.raises(VolumeError, match=r"a\.png: greys of 16 bits"):
        read_image([tmp_path / "a.png"])


def test_one_bit_pictures_hold_zero_and_one(tmp_path):
    mask = GREY > 100
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png").array[0], mask)
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array[0, 0], mask)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_is_indices_to_a_label_map_and_colours_to_an_image(tmp_path, bits):
    indices = (GREY % min(2**bits, 16)).astype(np.uint8)
    picture = Image.new("P", (6, 4))
    picture.putdata(indices.ravel().tolist())
    palette = RANDOM.integers(0, 256, (16, 3)).astype(np.uint8)
    picture.putpalette(palette.ravel().tolist())
    picture.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png").array[0], indices)
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array[:, 0], np.moveaxis(palette[indices], -1, 0))


@pytest.mark.parametrize("bits", [2, 4])
def test_greys_of_few_bits_are_label_values(tmp_path, bits):
    import struct

    values = (GREY % 2**bits).astype(np.uint8)
    binary = np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(4, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in binary)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 6, 4, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png").array[0], values)


def test_a_grey_label_map_that_was_saved_as_colours_is_read(tmp_path):
    Image.fromarray(np.repeat(GREY[..., None], 3, axis=-1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png").array[0], GREY)


def test_a_label_map_in_colours_is_refused(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    with pytest.raises(VolumeError, match=r"a\.png: a label map has one channel, found 3"):
        read_label_map(tmp_path / "a.png")


@pytest.mark.parametrize(("ending", "dtype"), [(".png", np.uint8), (".png", np.uint16), (".bmp", np.uint8)])
def test_label_maps_are_written_without_change(tmp_path, ending, dtype):
    labels = RANDOM.integers(0, np.iinfo(dtype).max, (1, 4, 6)).astype(dtype)
    write_label_map(tmp_path / f"a{ending}", labels, grid=PICTURE_GRID, like=None)
    restored = read_label_map(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(restored.array, labels)
    assert restored.grid == PICTURE_GRID
    assert np.asarray(Image.open(tmp_path / f"a{ending}")).dtype == dtype


@pytest.mark.parametrize(
    ("ending", "shape", "dtype"),
    [(".png", (1, 4, 6), np.int16), (".png", (1, 4, 6), np.int32), (".bmp", (1, 4, 6), np.uint16),
     (".png", (2, 4, 6), np.uint8)],
)  # fmt: skip
def test_what_a_picture_cannot_hold_is_refused(tmp_path, ending, shape, dtype):
    grid = Grid(shape_voxels=shape, spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(VolumeError, match=rf"a{ending}: .* found {shape[0]} slices of {np.dtype(dtype)}; write \.png"):
        write_label_map(tmp_path / f"a{ending}", np.zeros(shape, dtype), grid=grid, like=None)
    with pytest.raises(VolumeError, match="float32"):
        write_image(tmp_path / f"a{ending}", np.zeros(shape, np.float32), grid=grid)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [512, 1000])
@pytest.mark.parametrize("is_empty", [True, False])
def test_masks_of_one_bit_compress_well(tmp_path, size, is_empty):
    mask = np.zeros((size, size), bool)
    mask[100:200, 100:200] = not is_empty
    Image.fromarray(mask).save(tmp_path / "a.png", optimize=True)
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png").array[0], mask)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_flat_palettes_compress_well(tmp_path, bits):
    picture = Image.new("P", (1000, 1000))
    picture.putpalette([0, 0, 0, *[255, 0, 0] * (2**bits - 1)])
    picture.save(tmp_path / "a.png", bits=bits, optimize=True)
    assert not read_label_map(tmp_path / "a.png").array.any()


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "GIF", "WEBP", "PNG", "PPM"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_flat_pictures_of_all_kinds_are_read(tmp_path, kind, mode):
    Image.new(mode, (2000, 2000)).save(tmp_path / "a.png", format=kind, **{"lossless": True} if kind == "WEBP" else {})
    assert not read_image([tmp_path / "a.png"]).array.any()


def test_a_picture_of_one_bit_that_promises_more_than_deflate_can_hold_is_refused(tmp_path):
    Image.new("1", (8, 8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = (3000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(VolumeError, match="promises 3000 x 3000 x 1 voxels"):
        read_image([tmp_path / "a.png"])


def test_a_cut_picture_is_an_error(tmp_path):
    Image.fromarray(RANDOM.integers(0, 256, (64, 64)).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:1000])
    with pytest.raises(VolumeError, match=r"a\.png cannot be read"):
        read_image([tmp_path / "a.png"])


def test_text_under_the_name_of_a_picture_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(VolumeError, match=r"a\.png cannot be read"):
        read_grid(tmp_path / "a.png")


def test_a_gif_is_read_as_a_picture_with_the_colours_of_its_palette(tmp_path):
    mask = Image.fromarray(np.eye(4, dtype=np.uint8)).convert("P")
    mask.putpalette([0, 0, 0, 250, 250, 250])
    mask.save(tmp_path / "a.gif")
    picture = read_picture(tmp_path / "a.gif")
    np.testing.assert_array_equal(picture.max(axis=0)[0], 250 * np.eye(4))


@pytest.mark.parametrize("array", [GREY, GREY.astype(np.uint16) * 200])
def test_a_picture_keeps_its_integers(tmp_path, array):
    write_picture(tmp_path / "a.png", array[None], grid=PICTURE_GRID)
    picture = read_picture(tmp_path / "a.png")
    assert picture.dtype == array.dtype
    np.testing.assert_array_equal(picture, array[None, None])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.nii.gz", r"expected a picture, but .* ends in \.nii\.gz"),
        ("a.gif", "cannot be read"),
        ("b.gif", "ending that cannot be read|does not exist"),
        ("b.png", "does not exist"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, name, message):
    for written in ("a.nii.gz", "a.gif"):
        (tmp_path / written).write_bytes(b"no picture")
    with pytest.raises(VolumeError, match=message):
        read_picture(tmp_path / name)
