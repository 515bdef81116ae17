import numpy as np
import pytest
from builders.plans import RESAMPLING
from scipy import ndimage

from autoseg.preprocessing.interpolation import compute_linear_taps, compute_nearest_indices
from autoseg.preprocessing.resample import find_nearest_axes, resample_label_map
from autoseg.preprocessing.small_objects import keep_small_objects

Triple = tuple[int, int, int]
PLAIN = ((1,), (2,), (3,))
NESTED = ((1, 2, 3), (2, 3), (3,))
TOUCHING = np.ones((3, 3, 3), bool)


def resample(label_map: np.ndarray, shape: Triple) -> tuple[np.ndarray, frozenset[int]]:
    current, target = (1.0, 1.0, 1.0), tuple(old / new for old, new in zip(label_map.shape, shape, strict=True))
    resampled = resample_label_map(
        label_map, shape=shape, spacing_mm=current, target_spacing_mm=target, plan=RESAMPLING
    )
    return resampled, find_nearest_axes(current, target, RESAMPLING)


def keep(
    label_map: np.ndarray, shape: Triple, classes: tuple[tuple[int, ...], ...] = PLAIN
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the label map as it is interpolated, with small objects, and the number of voxels given to them."""
    interpolated, nearest_axes = resample(label_map, shape)
    kept = interpolated.copy()
    return interpolated, kept, keep_small_objects(label_map, kept, classes=classes, nearest_axes=nearest_axes)


def find_footprint(component: np.ndarray, shape: Triple, nearest_axes: frozenset[int]) -> np.ndarray:
    """The new voxels that belong to an object: nearest to one of its voxels, or interpolated from one."""
    found = np.zeros(shape, bool)
    for voxel in np.argwhere(component):
        extents = zip(shape, component.shape, voxel, strict=True)
        found[tuple(int(compute_nearest_indices(new, old)[index]) for new, old, index in extents)] = True
        users = []
        for axis, (old, new, index) in enumerate(zip(component.shape, shape, voxel, strict=True)):
            taps, nearest = compute_linear_taps(old, new), compute_nearest_indices(old, new)
            used = nearest == index if axis in nearest_axes else (taps.lower == index) | (taps.upper == index)
            users.append(used)
        found |= users[0][:, None, None] & users[1][:, None] & users[2]
    return found


def count_vanished(label_map: np.ndarray, resampled: np.ndarray, classes: tuple[tuple[int, ...], ...]) -> int:
    """Looks at every component of every class alone."""
    _, nearest_axes = resample(label_map, resampled.shape)
    vanished = 0
    for members in classes:
        components, count = ndimage.label(np.isin(label_map, members), TOUCHING)
        for number in range(1, count + 1):
            footprint = find_footprint(components == number, resampled.shape, nearest_axes)
            vanished += not np.isin(resampled[footprint], members).any()
    return vanished


@pytest.mark.parametrize("classes", [PLAIN, NESTED])
@pytest.mark.parametrize(
    ("old", "new"),
    [((9, 12, 14), (4, 5, 6)), ((9, 12, 14), (9, 7, 20)), ((6, 20, 20), (6, 4, 4)), ((12, 11, 10), (13, 12, 11))],
)
def test_nothing_vanishes_and_only_voxels_of_lost_objects_differ(old, new, classes):
    random = np.random.default_rng(sum(old))
    label_map = np.zeros(old, np.int16)
    for label in (1, 2, 3, 1, 2):
        for z, y, x in random.integers(0, old, (3, 3)):
            label_map[z : z + random.integers(1, 3), y : y + random.integers(1, 3), x : x + 1] = label
    label_map[:3, :3, :3] = 2
    interpolated, kept, placed = keep(label_map, new, classes)
    lost = count_vanished(label_map, interpolated, classes)
    assert np.count_nonzero(interpolated != kept) == placed <= lost
    assert lost > 0
    assert count_vanished(label_map, kept, classes) == 0


def test_a_lesion_of_one_voxel_gets_the_voxel_that_it_lies_in():
    label_map = np.zeros((60, 60, 60), np.int16)
    for x in range(10, 50, 16):
        label_map[20, 20, x] = 2
    interpolated, kept, placed = keep(label_map, (6, 6, 6))
    assert not interpolated.any()
    assert placed == 3
    assert np.argwhere(kept == 2).tolist() == [[2, 2, 1], [2, 2, 2], [2, 2, 4]]


def test_two_small_objects_in_one_voxel_are_both_kept_side_by_side():
    label_map = np.zeros((40, 40, 40), np.int16)
    label_map[14, 14, 14:16] = 1
    label_map[16, 16, 18] = 2
    _, kept, placed = keep(label_map, (4, 4, 4))
    assert placed == 2
    assert kept[1, 1, 1] == 1  # the larger one
    assert np.argwhere(kept == 2).tolist() == [[1, 1, 2]]  # the neighbour that is nearest to it


def test_an_object_in_a_large_one_is_kept_and_the_large_one_loses_one_voxel():
    label_map = np.ones((30, 30, 30), np.int16)
    label_map[15, 15, 15] = 3
    interpolated, kept, placed = keep(label_map, (10, 10, 10))
    assert placed == 1
    assert (interpolated == 1).all()
    assert np.argwhere(kept != 1).tolist() == [[5, 5, 5]]


def test_the_last_voxel_of_another_object_is_not_taken():
    label_map = np.zeros((30, 30, 30), np.int16)
    label_map[12:15, 12:15, 12:15] = 1  # exactly one new voxel
    label_map[12, 12, 12] = 2
    interpolated, kept, placed = keep(label_map, (10, 10, 10))
    assert interpolated[4, 4, 4] == 1
    assert kept[4, 4, 4] == 1
    assert placed == 1
    ((z, y, x),) = np.argwhere(kept == 2)
    assert max(abs(z - 4), abs(y - 4), abs(x - 4)) == 1


def test_an_object_that_loses_its_voxel_to_another_one_gets_one_in_turn():
    """Two objects of label 1 in neighbouring new voxels look like one from which a voxel can be taken."""
    label_map = np.zeros((40, 40, 40), np.int16)
    label_map[4:8, 4:8, 4:7] = 1
    label_map[4:8, 4:8, 8:12] = 1
    label_map[4, 4, 4] = 2
    interpolated, kept, placed = keep(label_map, (10, 10, 10))
    assert np.argwhere(interpolated == 1).tolist() == [[1, 1, 1], [1, 1, 2]]
    assert placed == 2
    assert np.argwhere(kept == 2).tolist() == [[1, 1, 1]]
    assert np.argwhere(kept == 1).tolist() == [[1, 1, 0], [1, 1, 2]]


def test_the_ignore_label_and_background_in_a_region_are_no_objects():
    label_map = np.zeros((30, 30, 30), np.int16)
    label_map[5, 5, 5] = 4
    label_map[20, 20, 20] = 1
    label_map[10:, :, :] = np.where(label_map[10:] == 0, -1, label_map[10:])
    interpolated, kept, placed = keep(label_map, (10, 10, 10), ((0, 1), (2, 3)))
    assert placed == 0
    np.testing.assert_array_equal(interpolated, kept)
    assert keep(label_map, (10, 10, 10))[2] == 1


def test_labels_that_keep_their_grid_are_left_alone():
    label_map = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.int16)
    assert keep(label_map, (5, 6, 7))[2] == 0
