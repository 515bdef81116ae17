import locale
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.volume_io import check_same_grid, read_grid, read_image, read_label_map, write_label_map

EXACT_ENDINGS = [".mha", ".mhd", ".nrrd", ".nhdr"]
SPACING = (0.1, 0.7123456789, 1 / 3)
ORIGIN = (1.1, -2 / 3, 7.7)
ANGLE = 0.3
DIRECTION = (np.cos(ANGLE), -np.sin(ANGLE), 0.0, np.sin(ANGLE), np.cos(ANGLE), 0.0, 0.0, 0.0, 1.0)
LPS = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0))


def make_image(shape=(2, 3, 4), *, dtype=np.int16, is_vector=False) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(np.arange(np.prod(shape)).reshape(shape).astype(dtype), isVector=is_vector)
    if image.GetDimension() == 2:
        image.SetSpacing(SPACING[:2])
        image.SetOrigin(ORIGIN[:2])
        image.SetDirection((0.0, 1.0, -1.0, 0.0))
    elif image.GetDimension() == 3:
        image.SetSpacing(SPACING)
        image.SetOrigin(ORIGIN)
        image.SetDirection(DIRECTION)
    return image


def save(path: Path, image: SimpleITK.Image) -> Path:
    SimpleITK.WriteImage(image, str(path))
    return path


def get_geometry(path: Path) -> tuple:
    image = SimpleITK.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("ending", EXACT_ENDINGS)
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
def test_a_label_map_has_exactly_the_geometry_of_its_image(tmp_path, ending, shape, dtype):
    source = save(tmp_path / f"image{ending}", make_image(shape))
    grid = read_grid(source)
    labels = np.random.default_rng(0).integers(0, 99, grid.shape_voxels).astype(dtype)
    write_label_map(tmp_path / "out" / f"label{ending}", labels, grid=grid, like=source)
    assert get_geometry(tmp_path / "out" / f"label{ending}") == get_geometry(source)
    written = SimpleITK.ReadImage(str(tmp_path / "out" / f"label{ending}"))
    assert SimpleITK.GetArrayFromImage(written).dtype == dtype
    restored = read_label_map(tmp_path / "out" / f"label{ending}")
    np.testing.assert_array_equal(restored.array, labels)
    assert restored.grid == grid


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".gipl", ".gipl.gz"])
def test_axes_and_values_are_those_of_the_file(tmp_path, ending):
    image = make_image()
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    volume = read_image([save(tmp_path / f"a{ending}", image)])
    np.testing.assert_array_equal(volume.array[0], np.arange(24).reshape(2, 3, 4))
    assert volume.array.dtype == np.float32
    assert volume.grid.orientation_code == "LPS"
    np.testing.assert_allclose(volume.grid.spacing_mm, SPACING[::-1], rtol=1e-6)
    np.testing.assert_allclose(volume.grid.origin_mm, (-1.1, 2 / 3, 7.7), rtol=1e-6)


def test_the_world_is_that_of_nifti(tmp_path):
    image = make_image()
    nrrd, nifti = save(tmp_path / "a.nrrd", image), save(tmp_path / "a.nii.gz", image)
    check_same_grid(read_grid(nrrd), read_grid(nifti), what="the same image in two formats")
    np.testing.assert_array_equal(read_image([nrrd]).array, read_image([nifti]).array)


def test_a_flat_image_of_nifti_lies_where_that_of_itk_lies(tmp_path):
    image = make_image((3, 4))
    nrrd, nifti = save(tmp_path / "a.nrrd", image), save(tmp_path / "a.nii.gz", image)
    check_same_grid(read_grid(nrrd), read_grid(nifti), what="the same image in two formats")


def test_vectors_and_the_fourth_dimension_are_channels(tmp_path):
    vector = make_image((2, 3, 4, 3), is_vector=True)
    path = save(tmp_path / "vector.mha", vector)
    expected = np.moveaxis(np.arange(72).reshape(2, 3, 4, 3), -1, 0)
    np.testing.assert_array_equal(read_image([path]).array, expected)
    assert read_image([path]).array.flags.c_contiguous
    flat = save(tmp_path / "flat.mha", make_image((3, 4, 3), is_vector=True))
    np.testing.assert_array_equal(read_image([flat]).array[:, 0], np.moveaxis(np.arange(36).reshape(3, 4, 3), -1, 0))
    fourth = save(tmp_path / "fourth.nrrd", make_image((2, 2, 3, 4)))
    volume = read_image([fourth])
    np.testing.assert_array_equal(volume.array, np.arange(48).reshape(2, 2, 3, 4))
    for file in (path, flat, fourth):
        assert read_grid(file) == read_image([file]).grid


def test_a_flat_image_has_a_z_spacing_far_above_the_others(tmp_path):
    grid = read_grid(save(tmp_path / "a.mha", make_image((3, 4))))
    assert grid.shape_voxels == (1, 3, 4)
    assert grid.spacing_mm == (999 * SPACING[1], SPACING[1], SPACING[0])
    assert grid.origin_mm == (-ORIGIN[0], -ORIGIN[1], 0.0)
    assert grid.is_oriented


def test_a_flat_grid_that_is_tilted_is_written_in_three_dimensions(tmp_path):
    grid = read_grid(save(tmp_path / "a.mha", make_image((3, 4))))
    tilted = replace(grid, direction=((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)))
    write_label_map(tmp_path / "b.mha", np.ones((1, 3, 4), np.uint8), grid=tilted, like=None)
    assert len(get_geometry(tmp_path / "b.mha")[0]) == 3
    assert read_grid(tmp_path / "b.mha") == tilted


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_header_and_voxels_get_their_final_names(tmp_path, ending):
    grid = Grid(shape_voxels=(2, 3, 4), spacing_mm=(1.0, 1.0, 1.0))
    write_label_map(tmp_path / f"case.1{ending}", np.ones((2, 3, 4), np.uint8), grid=grid, like=None)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 2
    assert all(name.startswith("case.1") for name in names)


def test_what_gipl_cannot_hold_is_refused_and_leaves_no_file(tmp_path):
    grid = read_grid(save(tmp_path / "image.mha", make_image()))
    with pytest.raises(VolumeError, match=r"label\.gipl: its format cannot hold the grid"):
        write_label_map(tmp_path / "label.gipl", np.ones((2, 3, 4), np.uint8), grid=grid, like=None)
    plain = Grid(shape_voxels=(2, 3, 4), spacing_mm=(1.0, 1.0, 1.0), direction=LPS)
    with pytest.raises(VolumeError, match=r"label\.gipl with 32-bit signed integer"):
        write_label_map(tmp_path / "label.gipl", np.ones((2, 3, 4), np.int32), grid=plain, like=None)
    assert [path.name for path in tmp_path.iterdir()] == ["image.mha"]
    write_label_map(tmp_path / "label.gipl", np.ones((2, 3, 4), np.uint16), grid=plain, like=None)
    assert read_label_map(tmp_path / "label.gipl").grid == plain


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_cut_file_is_an_error(tmp_path, ending):
    path = save(tmp_path / f"a{ending}", make_image((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(VolumeError, match=rf"a{ending} cannot be read"):
        read_image([path])


def test_a_header_without_its_voxels_is_an_error(tmp_path):
    path = save(tmp_path / "a.mhd", make_image())
    (tmp_path / "a.raw").unlink()
    with pytest.raises(VolumeError, match=r"a\.mhd cannot be read"):
        read_image([path])


def test_four_dimensions_of_vectors_are_refused(tmp_path):
    path = save(tmp_path / "a.nrrd", make_image((2, 2, 3, 4, 2), is_vector=True))
    with pytest.raises(VolumeError, match="4 dimensions with 2 components"):
        read_image([path])
    with pytest.raises(VolumeError, match="split the file"):
        read_grid(path)


@pytest.mark.parametrize("spacing", [b"0", b"-1", b"nan", b"inf"])
def test_a_spacing_that_makes_no_sense_is_an_error(tmp_path, spacing):
    path = save(tmp_path / "a.mha", make_image())
    path.write_bytes(re.sub(rb"(ElementSpacing = )\S+", rb"\g<1>" + spacing, path.read_bytes()))
    with pytest.raises(VolumeError, match=r"a\.mha: spacing must be positive"):
        read_grid(path)
    with pytest.raises(VolumeError, match=r"a\.mha: spacing must be positive"):
        read_image([path])


def test_a_missing_spacing_is_named(tmp_path, caplog):
    path = save(tmp_path / "a.mha", make_image())
    path.write_bytes(re.sub(rb"ElementSpacing = [^\n]+\n", b"", path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert read_grid(path).spacing_mm == (1.0, 1.0, 1.0)
    assert "no ElementSpacing" in caplog.text


NRRD_HEADER = b"NRRD0004\ntype: float\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n"


def test_a_missing_spacing_of_nrrd_is_named(tmp_path, caplog):
    path = tmp_path / "a.nrrd"
    path.write_bytes(NRRD_HEADER + b"\n" + bytes(4 * 60))
    with caplog.at_level(logging.WARNING):
        assert read_grid(path).spacing_mm == (1.0, 1.0, 1.0)
    assert "neither spacings nor space directions" in caplog.text
    caplog.clear()
    path.write_bytes(NRRD_HEADER + b"spacings: 1 2 3\n\n" + bytes(4 * 60))
    with caplog.at_level(logging.WARNING):
        assert read_grid(path).spacing_mm == (3.0, 2.0, 1.0)
    assert not caplog.text


@pytest.mark.parametrize("spacing", [b"0", b"nan", b"inf"])
def test_a_spacing_of_nrrd_that_makes_no_sense_is_an_error(tmp_path, spacing):
    path = tmp_path / "a.nrrd"
    path.write_bytes(NRRD_HEADER + b"spacings: " + spacing + b" 1 1\n\n" + bytes(4 * 60))
    with pytest.raises(VolumeError, match=r"a\.nrrd.*spacing"):
        read_grid(path)
    with pytest.raises(VolumeError, match=r"a\.nrrd.*spacing"):
        read_image([path])


def test_a_zero_vector_as_direction_is_an_error(tmp_path):
    path = save(tmp_path / "a.nrrd", make_image())
    path.write_bytes(re.sub(rb"space directions: \([^)]*\)", b"space directions: (0,0,0)", path.read_bytes()))
    with pytest.raises(VolumeError, match=r"a\.nrrd"):
        read_grid(path)


def make_upright(shape=(2, 3, 4), *, dtype=np.int16) -> SimpleITK.Image:
    image = make_image(shape, dtype=dtype)
    image.SetDirection(np.eye(image.GetDimension()).ravel().tolist())
    return image


@pytest.mark.parametrize("ending", [".vtk", ".VTK"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_vtk_keeps_values_and_grid_to_the_last_bit(tmp_path, ending, shape, dtype):
    image = make_upright(shape, dtype=dtype)
    source = save(tmp_path / "image.vtk", image).rename(tmp_path / f"a{ending}")
    volume = read_image([source])
    np.testing.assert_array_equal(volume.array, SimpleITK.GetArrayFromImage(image).reshape(1, -1, 3, 4))
    check_same_grid(read_grid(save(tmp_path / "a.mha", image)), volume.grid, what="the same image in two formats")
    write_label_map(tmp_path / "label.vtk", volume.array[0].astype(dtype), grid=volume.grid, like=source)
    assert get_geometry(tmp_path / "label.vtk") == get_geometry(source)
    label_map = read_label_map(tmp_path / "label.vtk")
    np.testing.assert_array_equal(label_map.array, volume.array[0])
    assert label_map.grid == volume.grid == read_grid(source)


def test_what_vtk_cannot_hold_is_refused_and_leaves_no_file(tmp_path):
    grid = read_grid(save(tmp_path / "image.mha", make_image()))
    with pytest.raises(VolumeError, match=r"label\.vtk: its format cannot hold the grid"):
        write_label_map(tmp_path / "label.vtk", np.ones((2, 3, 4), np.uint8), grid=grid, like=None)
    assert [path.name for path in tmp_path.iterdir()] == ["image.mha"]


@pytest.mark.parametrize("spacing", [b"0", b"-1", b"nan"])
def test_a_spacing_of_vtk_that_makes_no_sense_is_an_error(tmp_path, capfd, spacing):
    path = save(tmp_path / "a.vtk", make_upright())
    path.write_bytes(re.sub(rb"(SPACING )\S+", rb"\g<1>" + spacing, path.read_bytes()))
    for read in (read_grid, lambda file: read_image([file])):
        with pytest.raises(VolumeError, match=r"a\.vtk: spacing must be positive"):
            read(path)
    assert capfd.readouterr().err == ""


def test_a_missing_spacing_of_vtk_is_named(tmp_path, caplog):
    path = save(tmp_path / "a.vtk", make_upright())
    path.write_bytes(re.sub(rb"SPACING [^\n]+\n", b"", path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert read_grid(path).spacing_mm == (1.0, 1.0, 1.0)
    assert "no SPACING" in caplog.text


def test_a_mesh_is_no_image(tmp_path):
    path = tmp_path / "a.vtk"
    path.write_text("# vtk DataFile Version 3.0\nmesh\nASCII\nDATASET POLYDATA\nPOINTS 1 float\n0 0 0\n")
    with pytest.raises(VolumeError, match="expected a VTK file of STRUCTURED_POINTS, found POLYDATA"):
        read_grid(path)


@pytest.mark.parametrize("ending", [".vtk", ".mrc", ".h5"])
@pytest.mark.parametrize("missing_bytes", [1, 300])
def test_a_cut_volume_is_an_error_without_further_words(tmp_path, capfd, ending, missing_bytes):
    path = save(tmp_path / f"a{ending}", make_upright((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-missing_bytes])
    with pytest.raises(VolumeError, match=rf"a\{ending}"):
        read_image([path])
    assert capfd.readouterr().err == ""


VTK_TEXT = "# vtk DataFile Version 3.0\nx\nASCII\nDATASET STRUCTURED_POINTS\nDIMENSIONS 2 2 2\nSPACING 1 2 3\n"
VTK_TEXT += "ORIGIN 0 0 0\nPOINT_DATA 8\nSCALARS s short 1\nLOOKUP_TABLE default\n"


def test_vtk_in_text_is_read_and_must_be_complete(tmp_path):
    path = tmp_path / "a.vtk"
    path.write_text(VTK_TEXT + "0 1 2 3 4 5 6 7\n")
    volume = read_image([path])
    np.testing.assert_array_equal(volume.array[0], np.arange(8).reshape(2, 2, 2))
    assert volume.grid.spacing_mm == (3.0, 2.0, 1.0)
    path.write_text(VTK_TEXT + "0 1 2 3\n")
    with pytest.raises(VolumeError, match=r"a\.vtk"):
        read_image([path])


@pytest.mark.parametrize("ending", [".h5", ".hdf5"])
def test_hdf5_keeps_values_and_grid_to_the_last_bit(tmp_path, ending):
    source = save(tmp_path / f"a{ending}", make_image())
    volume = read_image([source])
    assert volume.grid == read_grid(save(tmp_path / "a.mha", make_image()))
    write_label_map(tmp_path / f"b{ending}", volume.array[0].astype(np.uint8), grid=volume.grid, like=source)
    assert get_geometry(tmp_path / f"b{ending}") == get_geometry(source)
    np.testing.assert_array_equal(read_label_map(tmp_path / f"b{ending}").array, np.arange(24).reshape(2, 3, 4))


def test_mrc_is_read_as_itk_reads_it(tmp_path):
    path = save(tmp_path / "a.mrc", make_upright())
    volume = read_image([path])
    np.testing.assert_array_equal(volume.array[0], np.arange(24).reshape(2, 3, 4))
    check_same_grid(read_grid(save(tmp_path / "a.mha", make_upright())), volume.grid, what="mrc")


@pytest.mark.parametrize("ending", [".vtk", ".h5", ".mrc"])
def test_junk_is_an_error_without_further_words(tmp_path, capfd, ending):
    for content in (b"junk" * 500, b"\x89HDF\r\n\x1a\n" + bytes(500)):
        (tmp_path / f"a{ending}").write_bytes(content)
        with pytest.raises(VolumeError, match=rf"a\{ending}"):
            read_image([tmp_path / f"a{ending}"])
    assert capfd.readouterr().err == ""


def test_a_vtk_file_leaves_the_locale_of_the_process_alone(tmp_path):
    path = save(tmp_path / "a.vtk", make_upright())
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    before = locale.setlocale(locale.LC_ALL)
    grid = read_grid(path)
    assert locale.setlocale(locale.LC_ALL) == before
    read_image([path])
    assert locale.setlocale(locale.LC_ALL) == before
    write_label_map(tmp_path / "b.vtk", np.ones(grid.shape_voxels, np.uint8), grid=grid, like=path)
    assert locale.setlocale(locale.LC_ALL) == before
