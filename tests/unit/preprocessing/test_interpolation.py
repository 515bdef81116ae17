import numpy as np
import pytest
import scipy.ndimage

from autoseg.preprocessing.interpolation import build_interpolation_matrix, compute_nearest_indices, resample_axes


def assemble(old: int, new: int, order: int) -> np.ndarray:
    matrix = np.zeros((new, old))
    for block in build_interpolation_matrix(old, new, order):
        matrix[block.outputs, block.inputs] = block.weights
    return matrix


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(
    ("old", "new"), [(1, 5), (2, 7), (3, 2), (5, 1), (13, 13), (100, 37), (37, 100), (200, 199), (150, 333)]
)
def test_the_matrix_does_what_zoom_does(old: int, new: int, order: int) -> None:
    expected = scipy.ndimage.zoom(np.eye(old), (new / old, 1), order=order, mode="nearest", grid_mode=True)

    np.testing.assert_allclose(assemble(old, new, order), expected, atol=1e-7)


@pytest.mark.parametrize(("old", "new"), [(4000, 3700), (3000, 4100)])
def test_blocks_of_a_long_axis_stay_narrow(old: int, new: int) -> None:
    blocks = build_interpolation_matrix(old, new, 3)

    assert max(block.weights.shape[1] for block in blocks) < 120
    assert [block.outputs.start for block in blocks[1:]] == [block.outputs.stop for block in blocks[:-1]]


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_weights_of_every_output_sum_to_one(order: int) -> None:
    np.testing.assert_allclose(assemble(61, 140, order).sum(axis=1), 1, atol=1e-6)


def test_nearest_indices_take_the_upper_voxel_at_halves() -> None:
    assert compute_nearest_indices(4, 2).tolist() == [1, 3]
    assert compute_nearest_indices(2, 4).tolist() == [0, 0, 1, 1]
    assert compute_nearest_indices(3, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("shape", [(5, 9, 7), (12, 9, 7), (5, 20, 3), (2, 4, 15), (9, 9, 9)])
def test_axes_are_resampled_alike_in_whatever_order_they_come(shape: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).normal(size=(5, 9, 7)).astype(np.float32)
    expected = scipy.ndimage.zoom(
        array.astype(np.float64), np.divide(shape, array.shape), order=3, mode="nearest", grid_mode=True
    )

    np.testing.assert_allclose(resample_axes(array, shape, 3), expected, atol=5e-6)
