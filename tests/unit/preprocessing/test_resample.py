from collections.abc import Callable

import numpy as np
import pytest
from builders.plans import RESAMPLING
from builders.preprocessing import resample_logits
from skimage.transform import resize

from autoseg.preprocessing.resample import (
    compute_resampled_shape,
    find_separate_axis,
    resample_image,
    resample_label_map,
)

ISOTROPIC = {"spacing_mm": (1.0, 1.0, 1.0), "target_spacing_mm": (1.0, 1.0, 1.0)}
Triple = tuple[int, int, int]
SHAPES = [((9, 14, 11), (12, 11, 19)), ((20, 16, 9), (7, 16, 5)), ((1, 17, 12), (1, 30, 9)), ((8, 8, 8), (16, 16, 16))]


def resize_by_skimage(volume: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    result: np.ndarray = resize(volume.astype(np.float64), shape, order, mode="edge", anti_aliasing=False)
    return result


def resize_slices(
    volume: np.ndarray, shape: Triple, axis: int, resize_slice: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
) -> np.ndarray:
    """Every slice by itself, then the nearest of them along `axis`."""
    in_plane = tuple(extent for index, extent in enumerate(shape) if index != axis)
    slices = [resize_slice(plane, in_plane) for plane in np.moveaxis(volume, axis, 0)]
    old, new = volume.shape[axis], shape[axis]
    chosen = np.clip(np.floor((np.arange(new) + 0.5) * old / new), 0, old - 1).astype(int)
    return np.moveaxis(np.stack([slices[index] for index in chosen]), 0, axis)


def resize_labels_one_by_one(label_map: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The rule in its slow form: one indicator per label, ties to the nearest voxel's label, else to the smallest."""
    labels = np.unique(label_map)
    scores = np.stack([resize_by_skimage(label_map == label, shape, 1) for label in labels])
    nearest = resize_by_skimage(label_map, shape, 0)
    is_best = scores == scores.max(axis=0)
    nearest_is_best = (is_best & (labels.reshape(-1, *[1] * label_map.ndim) == nearest)).any(axis=0)
    return np.where(nearest_is_best, nearest, labels[is_best.argmax(axis=0)])


def make_labels(shape: Triple, count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(-1, count - 1, shape).astype(np.int16)


def make_image(shape: Triple, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(channels, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "spacing", "target", "expected"),
    [
        ((10, 20, 30), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (10, 20, 30)),
        ((5, 7, 100), (1.0, 1.0, 0.7), (2.0, 2.0, 1.0), (2, 4, 70)),  # 2.5 and 3.5: halves go to the even number
        ((48, 512, 512), (3.0, 0.78, 0.78), (2.5, 0.9, 0.9), (58, 444, 444)),
        ((1, 40, 40), (0.4, 1.0, 1.0), (1.0, 1.0, 1.0), (1, 40, 40)),  # never empty
    ],
)
def test_the_shape_keeps_the_physical_extent(
    shape: Triple,
    spacing: tuple[float, float, float],
    target: tuple[float, float, float],
    expected: Triple,
) -> None:
    assert compute_resampled_shape(shape, spacing, target) == expected


@pytest.mark.parametrize(
    ("spacing", "target", "expected"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 5.0), (1.0, 1.0, 1.0), 2),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),  # exactly the threshold is not beyond it
        ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), 1),
        ((5.0, 1.0, 1.0), (1.0, 1.0, 5.0), 0),  # the current spacing is asked first
        ((0.24, 1.25, 1.25), (5.0, 1.0, 1.0), None),  # two axes tie: the target is not asked
        ((999.0, 1.0, 1.0), (999.0, 0.5, 0.5), 0),
    ],
)
def test_the_separate_axis_is_the_one_coarsest_axis_of_an_anisotropic_grid(
    spacing: tuple[float, float, float], target: tuple[float, float, float], expected: int | None
) -> None:
    assert find_separate_axis(spacing, target, 3.0) == expected


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_images_are_cubic_splines_clipped_to_their_own_range(old: Triple, new: Triple) -> None:
    image = make_image(old)

    resampled = resample_image(image, shape=new, **ISOTROPIC, plan=RESAMPLING)

    for channel, source in zip(resampled, image, strict=True):
        np.testing.assert_allclose(channel, resize_by_skimage(source, new, 3), atol=1e-5)
        assert source.min() <= channel.min() <= channel.max() <= source.max()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("old", "new"), [((9, 14, 11), (5, 8, 19)), ((9, 14, 11), (13, 22, 7)), ((9, 9, 9), (9, 12, 9))]
)
def test_a_coarse_axis_of_an_image_is_resampled_by_nearest_neighbour(axis: int, old: Triple, new: Triple) -> None:
    image = make_image(old)
    image += np.arange(old[axis]).reshape([-1 if index == axis else 1 for index in range(3)]) * 3  # unlike ranges
    spacing = (5.0 if axis == 0 else 1.0, 5.0 if axis == 1 else 1.0, 5.0 if axis == 2 else 1.0)

    resampled = resample_image(image, shape=new, spacing_mm=spacing, target_spacing_mm=(1.0, 1.0, 1.0), plan=RESAMPLING)

    for channel, source in zip(resampled, image, strict=True):
        expected = resize_slices(source, new, axis, lambda plane, shape: resize_by_skimage(plane, shape, 3))
        np.testing.assert_allclose(channel, expected, atol=1e-5 * source.std())


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_logits_are_interpolated_linearly(old: Triple, new: Triple) -> None:
    logits = make_image(old, channels=3)

    resampled = resample_logits(logits, shape=new, **ISOTROPIC, plan=RESAMPLING)

    for channel, source in zip(resampled, logits, strict=True):
        np.testing.assert_allclose(channel, resize_by_skimage(source, new, 1), atol=2e-6)


@pytest.mark.parametrize("count", [1, 2, 4, 40])
@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_labels_go_to_the_largest_share_with_exact_ties_as_in_the_slow_form(
    old: Triple, new: Triple, count: int
) -> None:
    label_map = make_labels(old, count)

    resampled = resample_label_map(label_map, shape=new, **ISOTROPIC, plan=RESAMPLING)

    np.testing.assert_array_equal(resampled, resize_labels_one_by_one(label_map, new))
    assert resampled.dtype == np.int16


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_coarse_axis_of_labels_is_resampled_by_nearest_neighbour(axis: int) -> None:
    label_map = make_labels((9, 14, 11), 5)
    spacing = (5.0 if axis == 0 else 1.0, 5.0 if axis == 1 else 1.0, 5.0 if axis == 2 else 1.0)

    resampled = resample_label_map(
        label_map, shape=(13, 8, 19), spacing_mm=spacing, target_spacing_mm=(1.0, 1.0, 1.0), plan=RESAMPLING
    )

    np.testing.assert_array_equal(resampled, resize_slices(label_map, (13, 8, 19), axis, resize_labels_one_by_one))


def test_a_label_that_ties_with_the_nearest_one_loses() -> None:
    label_map = np.array([[[0, 0, 0, 0, 7, 7, 7, 7]]], dtype=np.int16)
    resampled = resample_label_map(label_map, shape=(1, 1, 5), **ISOTROPIC, plan=RESAMPLING)

    # The middle output lies at 3.5, half way between labels 0 and 7; the nearest voxel there is the upper one.
    assert resampled.tolist() == [[[0, 0, 7, 7, 7]]]


def test_labels_of_order_zero_are_those_of_the_nearest_voxel() -> None:
    label_map = make_labels((6, 7, 8), 30)
    plan = RESAMPLING.model_copy(update={"label_order": 0})

    resampled = resample_label_map(label_map, shape=(9, 4, 8), **ISOTROPIC, plan=plan)

    np.testing.assert_array_equal(resampled, resize_by_skimage(label_map, (9, 4, 8), 0))


def test_arrays_whose_shape_stays_are_returned_as_they_are() -> None:
    image, label_map = make_image((4, 5, 6)), make_labels((4, 5, 6), 3)

    assert resample_image(image, shape=(4, 5, 6), **ISOTROPIC, plan=RESAMPLING) is image
    assert resample_logits(image, shape=(4, 5, 6), **ISOTROPIC, plan=RESAMPLING) is image
    assert resample_label_map(label_map, shape=(4, 5, 6), **ISOTROPIC, plan=RESAMPLING) is label_map


def test_arguments_are_not_written_to() -> None:
    image, label_map = make_image((4, 5, 6)), make_labels((4, 5, 6), 3)
    image.setflags(write=False)
    label_map.setflags(write=False)

    resample_image(image, shape=(6, 5, 4), **ISOTROPIC, plan=RESAMPLING)
    resample_label_map(label_map, shape=(6, 5, 4), **ISOTROPIC, plan=RESAMPLING)


def test_many_contested_voxels_are_decided_in_chunks() -> None:
    label_map = make_labels((24, 30, 26), 3)

    resampled = resample_label_map(label_map, shape=(30, 36, 31), **ISOTROPIC, plan=RESAMPLING)

    np.testing.assert_array_equal(resampled, resize_labels_one_by_one(label_map, (30, 36, 31)))
