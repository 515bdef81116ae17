import numpy as np
import pytest
import scipy.ndimage

from autoseg.nonzero_region import (
    compute_bounding_box,
    compute_nonzero_box,
    compute_nonzero_mask,
    connect_voxels,
    number_components,
    slice_box,
)


def make_shell(extent: int, *, lower: int, upper: int) -> np.ndarray:
    image = np.zeros((1, extent, extent, extent), dtype=np.float32)
    image[:, lower:upper, lower:upper, lower:upper] = 3
    image[:, lower + 1 : upper - 1, lower + 1 : upper - 1, lower + 1 : upper - 1] = 0
    return image


@pytest.mark.parametrize("density", [0.15, 0.3, 0.5, 0.6])
def test_the_mask_is_the_union_of_the_channels_with_the_holes_that_scipy_finds(density: float) -> None:
    generator = np.random.default_rng(0)
    image = (generator.random((2, 14, 18, 11)) < density).astype(np.float32)
    image[:, :3] = 0
    image[:, :, -2:] = 0

    mask = compute_nonzero_mask(image)

    np.testing.assert_array_equal(mask, scipy.ndimage.binary_fill_holes(image.any(axis=0)))


def test_an_enclosed_cavity_is_filled() -> None:
    mask = compute_nonzero_mask(make_shell(9, lower=2, upper=8))

    assert mask.sum() == 6**3


def test_a_cavity_with_an_opening_is_not_filled() -> None:
    image = make_shell(9, lower=2, upper=8)
    image[0, 2, 4, 4] = 0

    mask = compute_nonzero_mask(image)

    np.testing.assert_array_equal(mask, image[0] != 0)


def test_a_cavity_that_is_open_only_diagonally_is_filled() -> None:
    image = make_shell(9, lower=2, upper=8)
    image[0, 2, 2, 3] = 0  # touches the cavity along an edge of the shell, not through a face

    mask = compute_nonzero_mask(image)

    assert mask[4, 4, 4]
    assert not mask[2, 2, 3]


def test_a_cavity_at_the_border_of_the_volume_is_not_filled() -> None:
    image = np.ones((1, 5, 5, 5), dtype=np.float32)
    image[0, 0, 2, 2] = 0

    assert not compute_nonzero_mask(image)[0, 2, 2]


def test_a_volume_of_one_slice_has_no_holes() -> None:
    image = np.ones((1, 1, 7, 7), dtype=np.float32)
    image[0, 0, 3, 3] = 0

    assert not compute_nonzero_mask(image)[0, 3, 3]


def test_negative_values_and_nan_count_as_nonzero() -> None:
    image = np.zeros((1, 3, 3, 3), dtype=np.float32)
    image[0, 0, 0, 0] = -1
    image[0, 2, 2, 2] = np.nan

    assert compute_nonzero_mask(image).sum() == 2


def test_the_image_is_left_as_it_is() -> None:
    image = make_shell(9, lower=2, upper=8)
    before = image.copy()

    compute_nonzero_mask(image)

    np.testing.assert_array_equal(image, before)


def test_the_box_is_tight_and_half_open() -> None:
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask[1, 2, 7] = True
    mask[3, 5, 4] = True

    box = compute_bounding_box(mask)

    assert box == ((1, 4), (2, 6), (4, 8))
    assert mask[slice_box(box)].shape == (3, 4, 4)


def test_an_empty_mask_has_the_full_extent() -> None:
    assert compute_bounding_box(np.zeros((2, 3, 4), dtype=bool)) == ((0, 2), (0, 3), (0, 4))


def test_the_box_of_an_image_is_that_of_its_mask() -> None:
    image = np.concatenate([make_shell(9, lower=2, upper=6), make_shell(9, lower=3, upper=8)])

    assert compute_nonzero_box(image) == compute_bounding_box(compute_nonzero_mask(image)) == ((2, 8),) * 3


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1, 7), (7, 1, 1), (1, 3, 5), (3, 3, 3), (4, 5, 6)])
def test_as_many_components_are_numbered_as_a_box_can_hold(shape: tuple[int, int, int]) -> None:
    mask = np.zeros(shape, dtype=bool)
    mask[::2, ::2, ::2] = True
    expected, _ = scipy.ndimage.label(mask, np.ones((3, 3, 3)))

    np.testing.assert_array_equal(connect_voxels(mask, connectivity=26), expected)


@pytest.mark.parametrize("shape", [(9, 8), (6, 7, 8), (1, 9, 8)])
def test_components_touch_by_faces_edges_and_corners(shape):
    mask = np.random.default_rng(0).random(shape) < 0.2
    found = number_components(mask)
    assert found.dtype == np.int32
    expected, count = scipy.ndimage.label(mask, structure=np.ones((3,) * len(shape)))
    assert found.max() == count > 1
    assert len(set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))) == count + 1
