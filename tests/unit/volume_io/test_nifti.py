import gzip
import logging
import re
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.volume_io import read_grid, read_image, read_label_map, write_label_map

SHAPE_XYZ = (3, 4, 5)
AFFINE = np.array([[-0.7, 0.0, 0.0, 90.0], [0.0, 1.25, 0.0, -126.5], [0.0, 0.0, 3.0, -72.0], [0.0, 0.0, 0.0, 1.0]])


def make_oblique_affine() -> np.ndarray:
    angle = 0.31
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.8, 0.9, 2.5])
    affine[:3, 3] = (11.1, -22.2, 33.3)
    return affine


def make_array(shape=SHAPE_XYZ, dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def patch_header(path: Path, *, offset: int, form: str, values: tuple) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(bytes(content))


PIXDIM, QFORM_CODE, SFORM_CODE, XYZT_UNITS = 80, 252, 254, 123


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ", ".NII"])
def test_an_image_is_read_in_the_order_channel_z_y_x(tmp_path, ending):
    array = make_array()
    written = save(tmp_path / ("a" + ending.lower()), array)
    path = written.rename(tmp_path / ("b" + ending))
    volume = read_image([path])
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous
    np.testing.assert_array_equal(volume.array, array.T[None])
    assert volume.grid.shape_voxels == (5, 4, 3)
    np.testing.assert_allclose(volume.grid.spacing_mm, (3.0, 1.25, 0.7), rtol=1e-7)
    np.testing.assert_allclose(volume.grid.affine, AFFINE, rtol=1e-6)
    assert volume.grid.orientation_code == "LAS"


@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_a_pair_is_read_by_either_name(tmp_path, ending):
    array = make_array()
    nib.Nifti1Pair(array, AFFINE).to_filename(tmp_path / "a.hdr")
    np.testing.assert_array_equal(read_image([tmp_path / f"a{ending}"]).array[0], array.T)
    assert read_grid(tmp_path / f"a{ending}").shape_voxels == (5, 4, 3)


def test_nifti_2_and_big_endian_files_are_read(tmp_path):
    array = make_array()
    nib.Nifti2Image(array, AFFINE).to_filename(tmp_path / "two.nii.gz")
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.Nifti1Image(array, AFFINE, header).to_filename(tmp_path / "big.nii.gz")
    assert gzip.decompress((tmp_path / "big.nii.gz").read_bytes())[:4] == b"\x00\x00\x01\x5c"
    for name in ("two.nii.gz", "big.nii.gz"):
        np.testing.assert_array_equal(read_image([tmp_path / name]).array[0], array.T)


def test_mgz_is_read_like_nifti(tmp_path):
    array = make_array()
    nib.MGHImage(array, AFFINE).to_filename(tmp_path / "a.mgz")
    volume = read_image([tmp_path / "a.mgz"])
    np.testing.assert_array_equal(volume.array[0], array.T)
    np.testing.assert_allclose(volume.grid.affine, AFFINE, atol=1e-5)


def test_several_gzip_members_are_one_file(tmp_path):
    plain = save(tmp_path / "a.nii", make_array()).read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain[:100]) + gzip.compress(plain[100:]))
    np.testing.assert_array_equal(read_image([tmp_path / "a.nii.gz"]).array[0], make_array().T)


def test_scaled_integers_are_scaled(tmp_path):
    image = nib.Nifti1Image(make_array(), AFFINE)
    image.header.set_slope_inter(0.5, -10)
    path = save(tmp_path / "a.nii.gz", make_array())
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<2f", content, 112, 0.5, -10.0)
    path.write_bytes(gzip.compress(bytes(content)))
    np.testing.assert_array_equal(read_image([path]).array[0], make_array().T * np.float32(0.5) - 10)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 4), (1, 1, 4, 3)),
        ((3, 4, 5), (1, 5, 4, 3)),
        ((3, 4, 5, 1), (1, 5, 4, 3)),
        ((3, 4, 5, 2), (2, 5, 4, 3)),
        ((3, 4, 5, 1, 2), (2, 5, 4, 3)),
        ((3, 4, 1, 1, 2), (2, 1, 4, 3)),
    ],
)
def test_axes_beyond_the_third_are_channels(tmp_path, shape, expected):
    array = make_array(shape)
    path = save(tmp_path / "a.nii.gz", array)
    volume = read_image([path])
    assert volume.array.shape == expected
    np.testing.assert_array_equal(volume.array.ravel(), array.ravel(order="F"))
    assert volume.grid == read_grid(path)


def test_two_axes_of_channels_are_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", make_array((3, 4, 5, 2, 2)))
    with pytest.raises(VolumeError, match=r"a\.nii\.gz.*\(3, 4, 5, 2, 2\)"):
        read_image([path])


def test_a_flat_image_has_a_z_spacing_far_above_the_others(tmp_path):
    grid = read_grid(save(tmp_path / "a.nii.gz", make_array((3, 4))))
    np.testing.assert_allclose(grid.spacing_mm, (999 * 1.25, 1.25, 0.7), rtol=1e-6)
    three_dimensional = read_grid(save(tmp_path / "b.nii.gz", make_array((3, 4, 1))))
    assert three_dimensional.spacing_mm[0] == 3.0


def test_a_flat_image_may_have_an_affine_without_third_column(tmp_path):
    path = save(tmp_path / "a.nii", make_array((3, 4)))
    patch_header(path, offset=280, form="<12f", values=(2, 0, 0, 5, 0, 2, 0, 6, 0, 0, 0, 7))
    grid = read_grid(path)
    assert grid.direction == ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    assert grid.origin_mm == (5.0, 6.0, 7.0)


def test_spacing_is_the_stored_one_unless_the_affine_says_something_else(tmp_path):
    path = save(tmp_path / "a.nii", make_array(), make_oblique_affine())
    assert read_grid(path).spacing_mm == tuple(float(np.float32(value)) for value in (2.5, 0.9, 0.8))
    patch_header(path, offset=PIXDIM, form="<3f", values=(1.0, 1.0, 1.0))
    patch_header(path, offset=QFORM_CODE, form="<h", values=(0,))
    np.testing.assert_allclose(read_grid(path).spacing_mm, (2.5, 0.9, 0.8), rtol=1e-6)
    assert read_grid(path).spacing_mm[2] != float(np.float32(0.8))


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_metres_and_micrometres_become_millimetres(tmp_path, unit, factor):
    path = save(tmp_path / "a.nii", make_array())
    patch_header(path, offset=XYZT_UNITS, form="<b", values=(unit,))
    grid = read_grid(path)
    np.testing.assert_allclose(grid.spacing_mm, np.multiply((3.0, 1.25, 0.7), factor), rtol=1e-6)
    np.testing.assert_allclose(grid.origin_mm, np.multiply((90.0, -126.5, -72.0), factor), rtol=1e-6)


def test_the_sform_wins_over_another_qform_and_a_warning_says_so(tmp_path, caplog):
    image = nib.Nifti1Image(make_array(), AFFINE)
    image.set_sform(AFFINE, code=1)
    other = AFFINE.copy()
    other[0, 3] += 0.5
    image.set_qform(other, code=1)
    image.to_filename(tmp_path / "a.nii.gz")
    with caplog.at_level(logging.WARNING):
        grid = read_grid(tmp_path / "a.nii.gz")
    assert grid.origin_mm == (90.0, -126.5, -72.0)
    assert "sform and qform differ by up to 0.5" in caplog.text


def test_agreeing_forms_give_no_warning(tmp_path, caplog):
    image = nib.Nifti1Image(make_array(), make_oblique_affine())
    image.set_sform(make_oblique_affine(), code=1)
    image.set_qform(make_oblique_affine(), code=1)
    image.to_filename(tmp_path / "a.nii.gz")
    with caplog.at_level(logging.WARNING):
        read_grid(tmp_path / "a.nii.gz")
    assert not caplog.text


def test_the_qform_serves_where_there_is_no_sform(tmp_path):
    image = nib.Nifti1Image(make_array(), AFFINE)
    image.set_qform(make_oblique_affine(), code=1)
    image.set_sform(None, code=0)
    image.to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_grid(tmp_path / "a.nii.gz").affine, make_oblique_affine(), atol=1e-5)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (float("nan"), 1.0, 1.0)])
def test_a_missing_spacing_is_an_error(tmp_path, spacing):
    path = save(tmp_path / "a.nii", make_array())
    patch_header(path, offset=PIXDIM, form="<3f", values=spacing)
    patch_header(path, offset=QFORM_CODE, form="<2h", values=(1, 0))
    with pytest.raises(VolumeError, match=r"a\.nii: the header has no spacing .*set pixdim"):
        read_grid(path)


@pytest.mark.parametrize("with_sform", [True, False])
@pytest.mark.parametrize("flips", [(-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_oblique_and_left_handed_volumes_are_read_and_written_as_they_lie(tmp_path, flips, with_sform):
    affine = make_oblique_affine() @ np.diag([*flips, 1.0])
    image = nib.Nifti1Image(make_array(), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine if with_sform else None, code=int(with_sform))
    image.to_filename(tmp_path / "a.nii.gz")
    volume = read_image([tmp_path / "a.nii.gz"])
    np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-4)
    assert volume.grid.orientation_code == "".join(nib.aff2axcodes(affine))
    label_map = (volume.array[0] > 0).astype(np.uint8)
    write_label_map(tmp_path / "b.nii.gz", label_map, grid=volume.grid, like=tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").affine, nib.load(tmp_path / "a.nii.gz").affine)


@pytest.mark.parametrize(
    "row", [(float("nan"), 0, 0, 0), (0.0, 0, 0, 0), (float("inf"), 0, 0, 0), (1.0, 0, 0, float("nan"))]
)
def test_an_affine_that_makes_no_sense_is_an_error(tmp_path, row):
    path = save(tmp_path / "a.nii", make_array())
    patch_header(path, offset=280, form="<4f", values=row)
    patch_header(path, offset=QFORM_CODE, form="<2h", values=(0, 2))
    with pytest.raises(VolumeError, match=r"a\.nii: the affine.*repair the file's header"):
        read_image([path])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept_fraction", [0.3, 0.9])
def test_a_cut_file_is_an_error(tmp_path, ending, kept_fraction):
    path = save(tmp_path / f"a{ending}", np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept_fraction)])
    with pytest.raises(VolumeError, match=r"a\.nii.*cut off"):
        read_image([path])


def test_a_damaged_file_is_an_error(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[3000:3100] = bytes(100)
    path.write_bytes(bytes(content))
    with pytest.raises(VolumeError, match="damaged"):
        read_image([path])


def test_other_content_under_the_name_of_a_nifti_file_is_an_error(tmp_path):
    (tmp_path / "a.nii").write_text("not an image" * 100)
    (tmp_path / "b.nii.gz").write_text("not an image" * 100)
    with pytest.raises(VolumeError, match="NIfTI header"):
        read_image([tmp_path / "a.nii"])
    with pytest.raises(VolumeError, match=r"b\.nii\.gz cannot be read"):
        read_image([tmp_path / "b.nii.gz"])


def test_complex_numbers_are_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", make_array(dtype=np.complex64))
    with pytest.raises(VolumeError, match="complex"):
        read_image([path])


GEOMETRY_BYTES = [slice(76, 108), slice(123, 124), slice(252, 328)]  # pixdim, units, forms


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_label_map_has_the_header_of_its_image_bit_for_bit(tmp_path, dtype, ending):
    image = nib.Nifti1Image(make_array(), make_oblique_affine())
    image.set_sform(make_oblique_affine(), code=4)
    image.set_qform(make_oblique_affine(), code=2)
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(tmp_path / f"image{ending}")
    grid = read_grid(tmp_path / f"image{ending}")
    labels = np.random.default_rng(1).integers(0, 100, grid.shape_voxels).astype(dtype)
    write_label_map(tmp_path / f"label{ending}", labels, grid=grid, like=tmp_path / f"image{ending}")
    contents = []
    for name in ("image", "label"):
        content = (tmp_path / f"{name}{ending}").read_bytes()
        contents.append(gzip.decompress(content) if ending == ".nii.gz" else content)
    for part in GEOMETRY_BYTES:
        assert contents[0][part] == contents[1][part]
    loaded = nib.load(tmp_path / f"label{ending}")
    assert loaded.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(loaded.dataobj), labels.T)
    restored = read_label_map(tmp_path / f"label{ending}")
    assert restored.grid == grid
    np.testing.assert_array_equal(restored.array, labels)


def test_a_label_map_without_model_lies_on_its_grid(tmp_path):
    grid = read_grid(save(tmp_path / "image.nii.gz", make_array(), make_oblique_affine()))
    labels = np.ones(grid.shape_voxels, np.uint8)
    write_label_map(tmp_path / "label.nii.gz", labels, grid=grid, like=None)
    image = nib.load(tmp_path / "label.nii.gz")
    np.testing.assert_allclose(image.affine, make_oblique_affine(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(image.get_qform(), make_oblique_affine(), rtol=1e-5, atol=1e-5)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert read_grid(tmp_path / "label.nii.gz").spacing_mm == grid.spacing_mm


def test_a_sheared_grid_is_written_without_qform_and_warned_of(tmp_path, caplog):
    affine = make_oblique_affine()
    read_grid(save(tmp_path / "image.nii.gz", make_array(), affine))
    assert not caplog.records
    affine[0, 2] += 0.9
    grid = read_grid(save(tmp_path / "image.nii.gz", make_array(), affine))
    assert re.search(r"image\.nii\.gz: two axes meet at \d\d degrees, .* dcm2niix", caplog.text)
    write_label_map(tmp_path / "label.nii.gz", np.ones(grid.shape_voxels, np.uint8), grid=grid, like=None)
    image = nib.load(tmp_path / "label.nii.gz")
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6, atol=1e-6)
    assert int(image.header["qform_code"]) == 0


@pytest.mark.parametrize("with_model", [True, False])
def test_a_flat_image_gets_a_flat_label_map(tmp_path, with_model):
    source = save(tmp_path / "image.nii.gz", make_array((3, 4)))
    grid = read_grid(source)
    labels = np.ones((1, 4, 3), np.uint8)
    write_label_map(tmp_path / "label.nii.gz", labels, grid=grid, like=source if with_model else None)
    assert nib.load(tmp_path / "label.nii.gz").shape == (3, 4)
    assert read_label_map(tmp_path / "label.nii.gz").grid == grid


def test_the_model_may_have_channels_and_scaled_values(tmp_path):
    image = nib.Nifti1Image(make_array((3, 4, 5, 2)).astype(np.float32), AFFINE)
    image.set_data_dtype(np.int16)
    image.header.set_intent("vector")
    image.header["cal_max"] = 400
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Quakenbush^Ottilie"))
    image.to_filename(tmp_path / "image.nii.gz")
    grid = read_grid(tmp_path / "image.nii.gz")
    labels = np.full(grid.shape_voxels, 7, np.uint8)
    write_label_map(tmp_path / "label.nii.gz", labels, grid=grid, like=tmp_path / "image.nii.gz")
    written = nib.load(tmp_path / "label.nii.gz")
    assert written.shape == (3, 4, 5)
    assert (int(written.header["intent_code"]), float(written.header["cal_max"])) == (0, 0.0)
    assert len(nib.load(tmp_path / "image.nii.gz").header.extensions) == 1
    assert len(written.header.extensions) == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "label.nii.gz").array, labels)


def test_a_nifti_2_model_gives_a_nifti_2_label_map(tmp_path):
    nib.Nifti2Image(make_array(), AFFINE).to_filename(tmp_path / "image.nii.gz")
    grid = read_grid(tmp_path / "image.nii.gz")
    write_label_map(tmp_path / "label.nii.gz", np.ones((5, 4, 3), np.uint8), grid=grid, like=tmp_path / "image.nii.gz")
    assert isinstance(nib.load(tmp_path / "label.nii.gz"), nib.Nifti2Image)
    assert read_grid(tmp_path / "label.nii.gz") == grid


def test_a_model_on_another_grid_is_refused(tmp_path):
    source = save(tmp_path / "image.nii.gz", make_array())
    grid = Grid(shape_voxels=(5, 4, 3), spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(VolumeError, match="grids differ in spacing"):
        write_label_map(tmp_path / "label.nii.gz", np.ones((5, 4, 3), np.uint8), grid=grid, like=source)
    assert not (tmp_path / "label.nii.gz").exists()


def test_equal_label_maps_become_equal_files(tmp_path):
    grid = Grid(shape_voxels=(5, 4, 3), spacing_mm=(1.0, 1.0, 1.0))
    for name in ("a", "b"):
        write_label_map(tmp_path / f"{name}.nii.gz", np.ones((5, 4, 3), np.uint8), grid=grid, like=None)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_a_pair_is_written_with_both_files(tmp_path, ending):
    grid = read_grid(save(tmp_path / "image.nii.gz", make_array()))
    labels = make_array((5, 4, 3), np.uint8)
    write_label_map(tmp_path / "out" / f"a{ending}", labels, grid=grid, like=tmp_path / "image.nii.gz")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.hdr", "a.img"]
    restored = read_label_map(tmp_path / "out" / f"a{ending}")
    np.testing.assert_array_equal(restored.array, labels)
    assert restored.grid == grid


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
@pytest.mark.parametrize("with_model", [True, False])
def test_mgz_keeps_all_values(tmp_path, dtype, with_model):
    nib.MGHImage(make_array(), make_oblique_affine()).to_filename(tmp_path / "image.mgz")
    grid = read_grid(tmp_path / "image.mgz")
    labels = np.full((5, 4, 3), np.iinfo(dtype).max, dtype)
    like = tmp_path / "image.mgz" if with_model else None
    write_label_map(tmp_path / "label.mgz", labels, grid=grid, like=like)
    restored = read_label_map(tmp_path / "label.mgz")
    np.testing.assert_array_equal(restored.array, labels)
    np.testing.assert_allclose(restored.grid.affine, grid.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("written", "warning"),
    [
        (("meter", 1.2), "states lengths in metres (xyzt_units), so that the spacing is 1200 x 1200 x 1200 mm"),
        (("micron", 1.2), "states lengths in micrometres (xyzt_units), so that the spacing is 0.0012 x"),
        (("meter", 0.0012), None),
        (("micron", 20.0), None),
        (("mm", 1200.0), None),
    ],
)
def test_a_unit_that_makes_the_spacing_implausible_is_warned_of(tmp_path, caplog, written, warning):
    unit, spacing = written
    image = nib.Nifti1Image(make_array(), np.diag([spacing, spacing, spacing, 1]))
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "image.nii")
    read_grid(tmp_path / "image.nii")
    assert [warning in record.getMessage() for record in caplog.records] == ([] if warning is None else [True])
