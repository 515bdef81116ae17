import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import blosc2
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from autoseg.errors import RunError, VolumeError
from autoseg.geometry import Grid
from autoseg.preprocessing.stored_array import write_array
from autoseg.volume_io import (
    READABLE_ENDINGS,
    check_same_grid,
    label_map_ending,
    read_grid,
    read_image,
    read_label_map,
    strip_ending,
    write_image,
    write_label_map,
    write_probabilities,
)
from autoseg.volume_io.formats import READERS, WRITERS

GRID = Grid(shape_voxels=(2, 3, 4), spacing_mm=(2.0, 1.0, 0.5), origin_mm=(1.0, 2.0, 3.0))


def save(path, array: np.ndarray, grid: Grid = GRID):
    nib.Nifti1Image(array.T, grid.affine).to_filename(path)
    return path


def test_every_readable_ending_has_a_format():
    assert READABLE_ENDINGS
    assert set(READERS) == set(READABLE_ENDINGS)
    assert set(WRITERS) < set(READERS)
    assert [len(ending) for ending in READABLE_ENDINGS] == sorted(map(len, READABLE_ENDINGS), reverse=True)
    assert all(ending == ending.lower() for ending in READABLE_ENDINGS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", "a"), ("a.NII.GZ", "a"), ("a.b.nii", "a.b"), ("a.gipl.gz", "a"), ("a.txt", "a.txt"), ("a", "a"),
     ("a.nii.png", "a.nii")],
)  # fmt: skip
def test_the_longest_ending_is_stripped(name, expected):
    assert strip_ending(name) == expected


def test_label_maps_of_jpeg_pictures_are_png():
    assert label_map_ending(".jpg") == label_map_ending(".JPEG") == ".png"
    assert label_map_ending(".nii.gz") == ".nii.gz"
    assert label_map_ending(".vtk") == ".vtk"


def test_label_maps_of_images_that_cannot_be_written_are_nifti():
    assert {label_map_ending(ending) for ending in set(READERS) - set(WRITERS)} == {".nii.gz"}
    assert label_map_ending(".DCM") == ".nii.gz"


def test_files_become_channels_in_the_order_given(tmp_path):
    first, second = np.zeros((2, 3, 4), np.int16), np.ones((2, 3, 4), np.float32)
    paths = [save(tmp_path / "b.nii.gz", first), save(tmp_path / "a.nii.gz", second)]
    volume = read_image(paths)
    assert volume.array.shape == (2, 2, 3, 4)
    assert volume.array.flags.c_contiguous
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[:, 0, 0, 0], [0, 1])


def test_colour_files_add_their_channels(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.full((3, 4, 3), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    volume = read_image([tmp_path / "a.png", tmp_path / "b.png"])
    np.testing.assert_array_equal(volume.array[:, 0, 0, 0], [97, 97, 97, 98, 98, 98])


def test_channels_on_different_grids_are_an_error_that_shows_both(tmp_path):
    array = np.zeros((2, 3, 4), np.int16)
    paths = [
        save(tmp_path / "a.nii.gz", array),
        save(tmp_path / "b.nii.gz", array, replace(GRID, spacing_mm=(2.5, 1.0, 0.5))),
    ]
    with pytest.raises(VolumeError) as caught:
        read_image(paths)
    for part in ("b.nii.gz", "a.nii.gz", "2 x 1 x 0.5 mm", "2.5 x 1 x 0.5 mm", "spacing (by 0.5 mm)"):
        assert part in str(caught.value)


def test_no_files_are_no_image():
    with pytest.raises(VolumeError, match="at least one file"):
        read_image([])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shape_voxels": (2, 3, 5)}, "shape"),
        ({"spacing_mm": (2.0, 1.0, 0.502)}, "spacing"),
        ({"origin_mm": (1.002, 2.0, 3.0)}, "origin"),
        ({"direction": ((0.0, 0.0, 1.0), (0.0, 1.0, 0.002), (1.0, 0.0, 0.0))}, "direction"),
    ],
)
def test_every_difference_of_grids_is_found(change, named):
    with pytest.raises(VolumeError, match=rf"image and label: the grids differ in {named}"):
        check_same_grid(GRID, replace(GRID, **change), what="image and label")


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (2.0, 1.0, 0.5005)},
        {"origin_mm": (1.0005, 2.0, 3.0)},
        {"direction": ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0005), (1.0, 0.0, 0.0))},
    ],
)
def test_rounding_is_no_difference_of_grids(change):
    check_same_grid(GRID, replace(GRID, **change), what="image and label")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64, np.float32, np.float64])
def test_labels_of_any_number_type_are_integers(tmp_path, dtype):
    labels = np.arange(24).reshape(2, 3, 4)
    nib.Nifti1Image(labels.T.astype(dtype), GRID.affine, dtype=dtype).to_filename(tmp_path / "a.nii.gz")
    label_map = read_label_map(tmp_path / "a.nii.gz")
    assert label_map.array.dtype == np.int32
    assert label_map.array.flags.c_contiguous
    np.testing.assert_array_equal(label_map.array, labels)
    assert label_map.grid == read_grid(tmp_path / "a.nii.gz")


def test_large_and_negative_labels_are_kept(tmp_path):
    labels = np.array([-5, 65535, 70000, 0] * 6).reshape(2, 3, 4).astype(np.int32)
    np.testing.assert_array_equal(read_label_map(save(tmp_path / "a.nii.gz", labels)).array, labels)


def test_labels_beyond_32_bits_are_refused(tmp_path):
    labels = np.zeros((2, 3, 4), np.float64)
    labels[0, 0, 0] = 2.0**40
    with pytest.raises(VolumeError, match=r"a\.nii\.gz: label values must fit 32 bits"):
        read_label_map(save(tmp_path / "a.nii.gz", labels))


@pytest.mark.parametrize("value", [0.5, 1.01, float("nan"), float("inf")])
def test_labels_that_are_no_integers_are_named_and_counted(tmp_path, value):
    labels = np.ones((2, 3, 4), np.float32)
    labels[1, 1, 1:3] = value
    with pytest.raises(VolumeError, match=rf"a\.nii\.gz: .* found {np.float32(value)} and the like in 2 voxels"):
        read_label_map(save(tmp_path / "a.nii.gz", labels))


def test_rounding_errors_of_labels_are_forgiven(tmp_path):
    labels = np.full((2, 3, 4), 2.99999, np.float32)
    assert (read_label_map(save(tmp_path / "a.nii.gz", labels)).array == 3).all()


def test_a_label_map_of_several_channels_is_refused(tmp_path):
    nib.Nifti1Image(np.zeros((4, 3, 2, 2), np.int16), GRID.affine).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(VolumeError, match=r"a\.nii\.gz: a label map has one channel, found 2"):
        read_label_map(tmp_path / "a.nii.gz")


def test_what_is_no_image_file_is_named(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "a.txt").write_text("x")
    for name, reason in {
        "folder.nii.gz": "is a folder; one file is read per channel: convert a series of DICOM slices",
        "empty.nii.gz": "is empty",
        "a.txt": "has an ending that cannot be read",
        "missing.nii.gz": "does not exist",
    }.items():
        for read in (read_grid, read_label_map, lambda path: read_image([path])):
            with pytest.raises(VolumeError, match=rf"{name} {reason}"):
                read(tmp_path / name)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    labels = np.ones((2, 3, 4), np.uint8)
    write_label_map(tmp_path / "a.nii.gz", labels, grid=GRID, like=None)
    before = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "broken.nii.gz").write_text("x")
    with pytest.raises(VolumeError, match=r"broken\.nii\.gz cannot be read"):
        write_label_map(tmp_path / "a.nii.gz", labels, grid=GRID, like=tmp_path / "broken.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_that_is_no_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot create the folder"):
        write_label_map(tmp_path / "file" / "a.nii.gz", np.ones((2, 3, 4), np.uint8), grid=GRID, like=None)


def test_an_unknown_ending_cannot_be_written(tmp_path):
    with pytest.raises(VolumeError, match="its ending must be one of"):
        write_label_map(tmp_path / "a.txt", np.ones((2, 3, 4), np.uint8), grid=GRID, like=None)
    with pytest.raises(VolumeError, match=r"\(\.dcm files are only read\)"):
        write_label_map(tmp_path / "a.dcm", np.ones((2, 3, 4), np.uint8), grid=GRID, like=None)


def test_array_and_grid_must_fit(tmp_path):
    with pytest.raises(ValueError, match="must have one shape"):
        write_label_map(tmp_path / "a.nii.gz", np.ones((2, 3, 5), np.uint8), grid=GRID, like=None)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".mgz", ".tif"])
def test_images_come_back(tmp_path, ending):
    grid = replace(GRID, origin_mm=(0.0, 0.0, 0.0), is_oriented=ending != ".tif")
    image = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    write_image(tmp_path / f"a{ending}", image, grid=grid)
    volume = read_image([tmp_path / f"a{ending}"])
    np.testing.assert_array_equal(volume.array[0], image)
    check_same_grid(grid, volume.grid, what="image")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_probabilities_are_written_slab_by_slab(tmp_path, axis):
    probabilities = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    places = [tuple(slice(i, i + 1) if other == axis else slice(None) for other in range(3)) for i in range(3 + axis)]
    slabs = ((place, probabilities[:, *place]) for place in reversed(places))
    write_probabilities(tmp_path / "a.b2nd", probabilities.shape, slabs)
    stored = blosc2.open(str(tmp_path / "a.b2nd"), mode="r")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored[:], probabilities.astype(np.float16))
    assert [path.name for path in tmp_path.iterdir()] == ["a.b2nd"]


@pytest.fixture
def small_files():
    """Within it no file may have more than 20 kB, which fails like a full disk."""
    resource = pytest.importorskip("resource", reason="this system limits no files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_probabilities_that_find_no_room_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    noise = np.random.default_rng(0).random((2, 8, 64, 64)).astype(np.float32)
    slabs = (((slice(z, z + 1), slice(None), slice(None)), noise[:, z : z + 1]) for z in range(8))
    with pytest.raises(RunError, match=r"cannot write .*a\.b2nd: .*full disk.*free space"):
        write_probabilities(tmp_path / "a.b2nd", noise.shape, slabs)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_files")
def test_preprocessed_arrays_that_find_no_room_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    noise = np.random.default_rng(0).random((1, 8, 64, 64)).astype(np.float32)
    with pytest.raises(RunError, match=r"cannot write .*a\.b2nd: .*full disk.*free space"):
        write_array(tmp_path / "a.b2nd", noise, (8, 32, 32))
    assert not list(tmp_path.iterdir())


def test_probabilities_that_fail_leave_no_file(tmp_path):
    def fail():
        yield (slice(0, 1), slice(None), slice(None)), np.zeros((2, 1, 4, 5), np.float32)
        raise MemoryError

    with pytest.raises(MemoryError):
        write_probabilities(tmp_path / "a.b2nd", (2, 3, 4, 5), fail())
    assert not list(tmp_path.iterdir())


def test_importing_loads_no_image_library():
    code = (
        "import sys, autoseg.volume_io; "
        "print([name for name in ('nibabel', 'SimpleITK', 'PIL', 'tifffile', 'isal', 'torch', 'pydantic') "
        "if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.real_data
def test_real_images_and_label_maps_lie_on_one_grid(data_folder):
    datasets = sorted(data_folder.glob("Dataset*"))
    assert datasets
    for dataset in datasets:
        label_path = min((dataset / "labelsTr").iterdir())
        image_path = min((dataset / "imagesTr").glob(f"{strip_ending(label_path.name)}_0000*"))
        check_same_grid(read_image([image_path]).grid, read_label_map(label_path).grid, what=str(image_path))


@pytest.mark.real_data
def test_a_label_map_like_a_real_image_has_its_affine_and_codes(data_folder, tmp_path):
    source = data_folder / "ct_example" / "example_ct_sm.nii.gz"
    labels = read_label_map(data_folder / "ct_example" / "example_seg.nii.gz")
    write_label_map(tmp_path / "a.nii.gz", labels.array.astype(np.uint8), grid=labels.grid, like=source)
    expected, written = nib.load(source), nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(written.affine, expected.affine)
    for key in ("sform_code", "qform_code", "xyzt_units", "pixdim", "quatern_b", "srow_x"):
        np.testing.assert_array_equal(written.header[key], expected.header[key])
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.nii.gz").array, labels.array)
