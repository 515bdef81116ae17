from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from autoseg.errors import GridError, PlacementError, VolumeError
from autoseg.geometry import Grid, compute_reorientation
from autoseg.volume_io import LabelVolume, Volume, read_image, resample_label_map_onto_grid
from autoseg.volume_io.regrid import resample_image_onto_grid

GRID = Grid(shape_voxels=(6, 8, 10), spacing_mm=(3.0, 1.5, 1.0), origin_mm=(-20.0, 11.0, 4.0))


def compute_positions(grid: Grid) -> np.ndarray:
    """World positions of all voxels: (axis R A S, z, y, x)."""
    z, y, x = np.meshgrid(*(np.arange(extent) for extent in grid.shape_voxels), indexing="ij")
    return np.einsum("ij,j...->i...", grid.affine[:3], np.stack([x, y, z, np.ones_like(x)]).astype(float))


def make_ramp(grid: Grid) -> np.ndarray:
    """Linear in the world, so that linear interpolation is exact."""
    right, front, head = compute_positions(grid)
    return (100 + 2 * right - 3 * front + 5 * head).astype(np.float32)


def tilt(grid: Grid, degrees: float) -> Grid:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    direction = tuple(tuple((turn @ np.array(axis)).tolist()) for axis in grid.direction)
    return replace(grid, direction=direction)


@pytest.mark.parametrize(
    "source",
    [
        replace(GRID, shape_voxels=(12, 16, 20), spacing_mm=(1.6, 0.8, 0.55), origin_mm=(-20.5, 10.5, 3.0)),
        replace(tilt(GRID, 5), shape_voxels=(12, 30, 30), origin_mm=(-26.0, 2.0, 0.0)),
        compute_reorientation("RAS", "SPL").apply_to_grid(GRID),
    ],
    ids=["finer", "tilted", "other axes"],
)
def test_images_are_interpolated_linearly_in_the_world(source):
    volume = Volume(array=np.stack([make_ramp(source), -make_ramp(source)]), grid=source)
    moved = resample_image_onto_grid(volume, GRID, what="a onto b")
    inside = (slice(1, -1),) * 3
    np.testing.assert_allclose(moved.array[0][inside], make_ramp(GRID)[inside], rtol=1e-4)
    np.testing.assert_allclose(moved.array[1][inside], -make_ramp(GRID)[inside], rtol=1e-4)
    assert moved.grid == GRID
    assert moved.array.dtype == np.float32


def test_outside_of_an_image_is_its_smallest_intensity():
    source = replace(GRID, origin_mm=(-15.0, 11.0, 4.0))  # begins five voxels further right
    array = np.random.default_rng(0).uniform(-1000, 50, (1, *GRID.shape_voxels)).astype(np.float32)
    moved = resample_image_onto_grid(Volume(array=array, grid=source), GRID, what="a onto b")
    assert (moved.array[..., :5] == array.min()).all()
    np.testing.assert_allclose(moved.array[..., 5:], array[..., :5])


def test_labels_keep_their_values_and_outside_is_background():
    source = replace(GRID, origin_mm=(-17.6, 11.0, 4.0))  # 2.4 voxels: the nearest is two away
    array = np.random.default_rng(0).choice([1, 5, 70000, -3], GRID.shape_voxels).astype(np.int32)
    array[..., -2:] = 0  # they lie beyond the grid
    moved = resample_label_map_onto_grid(LabelVolume(array=array, grid=source), GRID, what="a onto b")
    np.testing.assert_array_equal(moved.array[..., 2:], array[..., :-2])
    assert not moved.array[..., :2].any()
    assert moved.array.dtype == np.int32


def test_grids_that_do_not_overlap_are_refused_with_both():
    source = replace(GRID, origin_mm=(500.0, 11.0, 4.0))
    volume = LabelVolume(array=np.ones(GRID.shape_voxels, np.int32), grid=source)
    with pytest.raises(VolumeError, match=r"(?s)a onto b: they do not overlap.*\(500, 11, 4\).*\(-20, 11, 4\)"):
        resample_label_map_onto_grid(volume, GRID, what="a onto b")


def test_labels_that_would_all_be_lost_are_refused():
    source = replace(GRID, origin_mm=(-15.0, 11.0, 4.0))
    array = np.zeros(GRID.shape_voxels, np.int32)
    array[..., -1] = 1
    lost = r"value 1: 48 voxels, 216 mm3, become 0 voxels, 0 mm3 \(48 of the 48 lie outside of that grid\)"
    with pytest.raises(VolumeError, match=lost):
        resample_label_map_onto_grid(LabelVolume(array=array, grid=source), GRID, what="a onto b")


def make_ball(grid: Grid, radius_mm: float, value: int = 1) -> np.ndarray:
    positions = compute_positions(grid)
    centre = positions.reshape(3, -1).mean(axis=1)[:, None, None, None]
    return (value * (np.linalg.norm(positions - centre, axis=0) <= radius_mm)).astype(np.int32)


FINE = Grid(shape_voxels=(40, 40, 40), spacing_mm=(0.7, 0.7, 0.7))
COARSE = Grid(shape_voxels=(8, 28, 28), spacing_mm=(3.5, 1.0, 1.0), origin_mm=(0.1, 0.2, 0.3))


@pytest.mark.parametrize("radius_mm", [0.4, 1.5, 4.0, 12.0])
@pytest.mark.parametrize(("source", "target"), [(FINE, COARSE), (COARSE, FINE), (tilt(FINE, 10), COARSE)])
def test_losses_by_interpolation_alone_are_accepted(source, target, radius_mm):
    array = make_ball(source, radius_mm)
    moved = resample_label_map_onto_grid(LabelVolume(array=array, grid=source), target, what="a onto b")
    assert moved.array.shape == target.shape_voxels
    assert moved.array.any() == array.any()


def test_a_label_that_falls_between_the_voxels_keeps_the_one_in_which_it_lies():
    array = make_ball(FINE, 6.0)
    array[3, 3, 3] = 7
    moved = resample_label_map_onto_grid(LabelVolume(array=array, grid=FINE), COARSE, what="a onto b")
    assert np.argwhere(moved.array == 7).tolist() == [[1, 2, 2]]
    array[22, 20, 20] = 8  # inside of another label, which is not overwritten
    with pytest.raises(VolumeError, match=r"value 8: 1 voxels, 0.343 mm3, become 0 voxels"):
        resample_label_map_onto_grid(LabelVolume(array=array, grid=FINE), COARSE, what="a onto b")


def test_a_class_that_is_cut_off_is_refused_though_others_are_whole():
    array = make_ball(FINE, 6.0)
    array[:4, :5, :5] = 2
    half = replace(FINE, shape_voxels=(20, 40, 40), origin_mm=(0.0, 0.0, 14.0))
    with pytest.raises(VolumeError, match=r"(?s)value 1: 2608 voxels.*value 2: 100 voxels, 34.3 mm3, become 0 voxels"):
        resample_label_map_onto_grid(LabelVolume(array=array, grid=FINE), half, what="a onto b")


def test_a_class_whose_slices_all_fall_between_those_of_the_grid_is_refused():
    array = make_ball(FINE, 9.0)
    array[13] = 2
    thick = replace(FINE, shape_voxels=(5, 40, 40), spacing_mm=(5.6, 0.7, 0.7))
    with pytest.raises(VolumeError, match=r"value 2: 1600 voxels.*become 0 voxels, 0 mm3 \(0 of the 1600 lie outside"):
        resample_label_map_onto_grid(LabelVolume(array=array, grid=FINE), thick, what="a onto b")


def test_a_channel_that_shares_too_little_with_the_first_is_refused():
    volume = Volume(array=make_ramp(FINE)[None], grid=FINE)
    apart = replace(FINE, origin_mm=(16.0, 0.0, 0.0))
    with pytest.raises(VolumeError, match=r"(?s)only 44% of the smaller one lies in the other.*from 40 x 40 x 40"):
        resample_image_onto_grid(volume, apart, what="a onto b")
    part = replace(FINE, shape_voxels=(10, 12, 14), spacing_mm=(1.0, 1.0, 1.0), origin_mm=(5.0, 5.0, 5.0))
    assert resample_image_onto_grid(volume, part, what="a onto b").grid == part


def test_a_channel_that_is_empty_where_the_first_lies_is_refused():
    ball = make_ball(FINE, 5.0)
    corner = replace(FINE, shape_voxels=(9, 9, 9), spacing_mm=(0.8, 0.8, 0.8))
    volume = Volume(array=(100.0 * ball[None] - 50).astype(np.float32), grid=FINE)
    with pytest.raises(VolumeError, match=r"the image is empty \(its voxels there have 0.0% of its mean intensity\)"):
        resample_image_onto_grid(volume, corner, what="a onto b")
    flat = Volume(array=np.ones((1, 40, 40, 40), np.float32), grid=FINE)
    assert (resample_image_onto_grid(flat, corner, what="a onto b").array == 1).all()


def test_an_equal_shape_with_another_spacing_is_not_resampled():
    lost = replace(FINE, spacing_mm=(1.0, 1.0, 1.0))
    reason = r"(?s)a onto b: the shape agrees and the spacings, 1 x 1 x 1 and 0.7 x 0.7 x 0.7 mm, do not.*not resampled"
    with pytest.raises(PlacementError, match=reason):
        resample_label_map_onto_grid(LabelVolume(array=make_ball(FINE, 6.0), grid=FINE), lost, what="a onto b")
    with pytest.raises(PlacementError, match=reason):
        resample_image_onto_grid(Volume(array=make_ramp(FINE)[None], grid=FINE), lost, what="a onto b")


def test_the_same_voxels_in_other_axes_and_a_slice_of_another_thickness_are_resampled():
    cube = Grid(shape_voxels=(8, 8, 8), spacing_mm=(2.0, 1.0, 1.0))
    slice_ = replace(cube, shape_voxels=(1, 8, 8))
    for source, target in (
        (compute_reorientation("RAS", "SAR").apply_to_grid(cube), cube),
        (slice_, replace(slice_, spacing_mm=(5.0, 1.0, 1.0))),
    ):
        volume = LabelVolume(array=make_ball(source, 3.0), grid=source)
        moved = resample_label_map_onto_grid(volume, target, what="a onto b")
        np.testing.assert_array_equal(moved.array, make_ball(target, 3.0))


def test_pictures_are_not_resampled():
    picture = Grid(shape_voxels=(1, 4, 4), spacing_mm=(999.0, 1.0, 1.0), is_oriented=False)
    volume = LabelVolume(array=np.ones((1, 4, 4), np.int32), grid=picture)
    with pytest.raises(VolumeError, match="no place in the world"):
        resample_label_map_onto_grid(volume, replace(picture, shape_voxels=(1, 5, 5)), what="a onto b")


def test_channels_on_other_grids_are_read_onto_the_first_only_on_request(tmp_path):
    second = replace(GRID, shape_voxels=(12, 16, 20), spacing_mm=(1.6, 0.8, 0.55), origin_mm=(-20.5, 10.5, 3.0))
    paths = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    for path, grid in zip(paths, (GRID, second), strict=True):
        nib.save(nib.Nifti1Image(make_ramp(grid).T, grid.affine), path)
    with pytest.raises(GridError, match="grids differ in shape"):
        read_image(paths)
    volume = read_image(paths, fix_geometry=True)
    assert volume.grid.shape_voxels == GRID.shape_voxels
    inside = (slice(1, -1),) * 3
    np.testing.assert_allclose(volume.array[1][inside], volume.array[0][inside], rtol=1e-4)
