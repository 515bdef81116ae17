import json
import logging

import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.volume_io import read_grid, read_image, read_label_map, write_label_map

RANDOM = np.random.default_rng(4)


def draw(*shape: int, dtype=np.uint8) -> np.ndarray:
    return RANDOM.integers(0, 256, shape).astype(dtype)


def check(path, expected: np.ndarray) -> None:
    volume = read_image([path])
    np.testing.assert_array_equal(volume.array, expected)
    assert read_grid(path) == volume.grid
    assert not volume.grid.is_oriented


def test_a_stack_of_three_pages_is_no_colour_picture(tmp_path):
    stack, colours = draw(3, 4, 5), draw(4, 5, 3)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "colours.tif", colours, photometric="rgb")
    check(tmp_path / "stack.tif", stack[None])
    check(tmp_path / "colours.tif", np.moveaxis(colours, -1, 0)[:, None])


@pytest.mark.parametrize("width", [3, 4])
def test_a_stack_as_narrow_as_a_colour_is_no_colour_picture(tmp_path, width):
    stack = draw(6, 4, width)
    tifffile.imwrite(tmp_path / "a.tiff", stack, photometric="minisblack")
    check(tmp_path / "a.tiff", stack[None])


def test_one_page_is_a_picture(tmp_path):
    grey = draw(4, 5, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", grey)
    check(tmp_path / "a.tif", grey[None, None])
    assert read_grid(tmp_path / "a.tif").spacing_mm == (999.0, 1.0, 1.0)


def test_colours_may_lie_in_planes_and_alpha_is_dropped(tmp_path):
    planes, transparent = draw(3, 4, 5), draw(4, 5, 4)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "alpha.tif", transparent, photometric="rgb")
    check(tmp_path / "planes.tif", planes[:, None])
    check(tmp_path / "alpha.tif", np.moveaxis(transparent[..., :3], -1, 0)[:, None])


def test_channels_of_imagej_stacks_come_first(tmp_path):
    stack = draw(6, 2, 4, 5)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    check(tmp_path / "a.tif", np.moveaxis(stack, 1, 0))


def test_a_stack_of_colour_pages_has_channels(tmp_path):
    stack = draw(6, 4, 5, 3)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="rgb")
    check(tmp_path / "a.tif", np.moveaxis(stack, -1, 0))


def test_time_and_depth_together_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", draw(2, 6, 4, 5), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(VolumeError, match="at most one axis of pages"):
        read_image([tmp_path / "a.tif"])


def test_pages_of_several_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(draw(4, 5))
        writer.write(draw(7, 8))
    with pytest.raises(VolumeError, match="found 2 images"):
        read_image([tmp_path / "a.tif"])


def test_a_palette_is_indices_to_a_label_map_and_colours_to_an_image(tmp_path):
    indices = draw(4, 5) % 7
    colours = RANDOM.integers(0, 256, (3, 256)).astype(np.uint16) << 8
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif").array[0], indices)
    check(tmp_path / "a.tif", (colours >> 8)[:, indices][:, None])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_usual_compressions_are_read(tmp_path, compression):
    stack, colours = draw(3, 16, 16), draw(16, 16, 3)
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:], compression=compression)
    Image.fromarray(colours).save(tmp_path / "colours.tif", compression=compression)
    check(tmp_path / "stack.tif", stack[None])
    check(tmp_path / "colours.tif", np.moveaxis(colours, -1, 0)[:, None])


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw", "lzma"])
def test_masks_of_one_bit_may_compress_to_nearly_nothing(tmp_path, compression):
    mask = np.zeros((2000, 2000), bool)
    Image.fromarray(mask).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif").array[0], mask)


def test_the_spacing_of_a_stack_stands_beside_it(tmp_path, caplog):
    for name in ("a", "a_0000", "b"):
        tifffile.imwrite(tmp_path / f"{name}.tif", draw(3, 4, 5), photometric="minisblack")
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [2.5, 0.5, 0.25]}))
    with caplog.at_level(logging.WARNING):
        assert read_grid(tmp_path / "a.tif").spacing_mm == (2.5, 0.5, 0.25)
        assert read_grid(tmp_path / "a_0000.tif").spacing_mm == (2.5, 0.5, 0.25)
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        assert read_grid(tmp_path / "b.tif").spacing_mm == (1.0, 1.0, 1.0)
    assert "no spacing in b.json" in caplog.text


@pytest.mark.parametrize("content", ["{", "{}", '{"spacing": [1, 2]}', '{"spacing": "x"}'])
def test_a_spacing_file_that_makes_no_sense_is_an_error(tmp_path, content):
    tifffile.imwrite(tmp_path / "a.tif", draw(3, 4, 5), photometric="minisblack")
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(VolumeError, match=r"a\.json must hold"):
        read_grid(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((1, 4, 5), (999.0, 1.0, 1.0)), ((3, 4, 5), (1.0, 1.0, 1.0)), ((3, 4, 5), (3.0, 0.5, 1 / 3)),
     ((1, 4, 5), (2.0, 1.0, 1.0)), ((4, 4, 3), (1.0, 1.0, 1.0))],
)  # fmt: skip
def test_label_maps_come_back_on_their_grid(tmp_path, dtype, shape, spacing):
    tells_spacing = spacing != (999.0, 1.0, 1.0)
    grid = Grid(shape_voxels=shape, spacing_mm=spacing, is_oriented=False, tells_spacing=tells_spacing)
    labels = draw(*shape).astype(dtype)
    write_label_map(tmp_path / "a.tif", labels, grid=grid, like=None)
    restored = read_label_map(tmp_path / "a.tif")
    np.testing.assert_array_equal(restored.array, labels)
    assert restored.grid == grid
    assert tifffile.imread(tmp_path / "a.tif").dtype == dtype


def test_a_cut_file_is_an_error(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", draw(3, 40, 50), photometric="minisblack")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:3000])
    with pytest.raises(VolumeError, match=r"a\.tif cannot be read"):
        read_image([tmp_path / "a.tif"])
