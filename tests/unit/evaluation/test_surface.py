"""Surface distances and surface Dice, by hand and against DeepMind's package.

The package needs names that SciPy has deprecated.
"""

import numpy as np
import pytest
import surface_distance
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.evaluation.surface import SurfaceAgreement, compute_surface_agreement

Mask = NDArray[np.bool_]


def draw_blobs(shape: tuple[int, ...], seed: int) -> Mask:
    noise = np.random.default_rng(seed).standard_normal(shape)
    blobs: Mask = ndimage.gaussian_filter(noise, 1.5) > 0.08
    return blobs


def compare(prediction: Mask, reference: Mask, spacing_mm: tuple[float, ...], tolerance_mm: float) -> SurfaceAgreement:
    return compute_surface_agreement(prediction, reference, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dimensions", [2, 3])
def test_random_blobs_agree_with_the_public_package(dimensions: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(int(extent) for extent in random.integers(10, 26, dimensions))
    spacing_mm = tuple(float(value) for value in random.uniform(0.3, 4.0, dimensions))
    tolerance_mm = float(random.uniform(0.3, 3.0))
    prediction, reference = draw_blobs(shape, 2 * seed), draw_blobs(shape, 2 * seed + 1)
    public = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)

    agreement = compare(prediction, reference, spacing_mm, tolerance_mm)

    hd95_mm = surface_distance.compute_robust_hausdorff(public, 95)
    surface_dice = surface_distance.compute_surface_dice_at_tolerance(public, tolerance_mm)
    maximum_mm = surface_distance.compute_robust_hausdorff(public, 100)
    from_reference_mm, from_prediction_mm = surface_distance.compute_average_surface_distance(public)
    areas_mm2 = [public[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
    average_mm = np.average([from_reference_mm, from_prediction_mm], weights=areas_mm2)
    assert agreement.hd95_mm == pytest.approx(hd95_mm, rel=1e-6, abs=0)
    assert agreement.maximum_distance_mm == pytest.approx(maximum_mm, rel=1e-6, abs=0)
    assert agreement.average_distance_mm == pytest.approx(average_mm, rel=1e-6, abs=0)
    assert agreement.surface_dice == pytest.approx(surface_dice, rel=1e-9, abs=0)
    assert 0 < surface_dice < 1


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9)])
def test_equal_masks_agree_perfectly(spacing_mm: tuple[float, ...]) -> None:
    mask = draw_blobs((12, 14, 16), seed=0)
    assert compare(mask, mask.copy(), spacing_mm, 0.0) == SurfaceAgreement(
        hd95_mm=0.0, surface_dice=1.0, average_distance_mm=0.0, maximum_distance_mm=0.0
    )


@pytest.mark.parametrize("dimensions", [2, 3])
def test_prediction_and_reference_may_be_exchanged(dimensions: int) -> None:
    first, second = (draw_blobs((12, 14, 16)[:dimensions], seed) for seed in (3, 4))
    spacing_mm = (2.0, 0.8, 1.1)[:dimensions]
    there, back = compare(first, second, spacing_mm, 1.0), compare(second, first, spacing_mm, 1.0)
    assert (there.hd95_mm, there.maximum_distance_mm) == (back.hd95_mm, back.maximum_distance_mm)
    assert there.average_distance_mm == pytest.approx(back.average_distance_mm, rel=1e-12)
    assert there.surface_dice == pytest.approx(back.surface_dice, rel=1e-12)


def test_empty_space_around_the_masks_plays_no_part() -> None:
    first, second = (draw_blobs((8, 9, 10), seed) for seed in (5, 6))
    wider = (np.pad(first, 4), np.pad(second, 4))
    assert compare(*wider, (2.0, 1.0, 1.0), 1.0) == compare(first, second, (2.0, 1.0, 1.0), 1.0)


@pytest.mark.parametrize(("axis", "expected_mm"), [(0, 6.0), (1, 2.0), (2, 1.0)])
def test_a_shifted_voxel_is_as_far_as_its_spacing_says(axis: int, expected_mm: float) -> None:
    reference = np.zeros((5, 5, 5), dtype=bool)
    reference[1, 1, 1] = True
    prediction = np.roll(reference, 2, axis=axis)
    # two voxels apart, so that the nearest corners of both are one voxel apart and the farthest two
    spacing_mm = (3.0, 1.0, 0.5)
    assert compare(prediction, reference, spacing_mm, 0.0).hd95_mm == pytest.approx(expected_mm)


def test_surface_dice_counts_the_part_of_both_surfaces_within_the_tolerance() -> None:
    # Two bars, 20 and 30 pixels long and one wide; a cap is the contour of one end.
    reference, prediction = np.zeros((3, 40), dtype=bool), np.zeros((3, 40), dtype=bool)
    reference[1, 5:25] = True
    prediction[1, 5:35] = True
    cap_mm = 2 * np.sqrt(0.5)
    reference_mm = 2 * 19 + 2 * cap_mm
    prediction_mm = 2 * 29 + 2 * cap_mm
    # All of the shorter bar's contour touches that of the longer one, of which 9 columns and the cap lie beyond.
    within_mm = reference_mm + 2 * (29 - 9) + cap_mm
    agreement = compare(prediction, reference, (1.0, 1.0), 0.5)
    assert agreement.surface_dice == pytest.approx(within_mm / (reference_mm + prediction_mm))
    assert agreement.hd95_mm == pytest.approx(9.0)
    # Columns 26 to 34 of the longer bar lie 1 to 9 pixels beyond the corners of the shorter one, its cap 10.
    beyond_mm2 = 2 * sum(range(1, 10)) + cap_mm * 10
    assert agreement.maximum_distance_mm == pytest.approx(10.0)
    assert agreement.average_distance_mm == pytest.approx(beyond_mm2 / (reference_mm + prediction_mm), rel=0.02)


@pytest.mark.parametrize(("tolerance_mm", "expected"), [(0.299, 0.5), (0.3, 1.0)])
def test_a_distance_equal_to_the_tolerance_is_within_it_whatever_its_rounding(
    tolerance_mm: float, expected: float
) -> None:
    # Two neighbouring pixels share half of their corners; the others are 0.3 mm away, which is above 0.3 as float32.
    reference, prediction = np.zeros((4, 3), dtype=bool), np.zeros((4, 3), dtype=bool)
    reference[1, 1], prediction[2, 1] = True, True
    assert float(np.float32(0.3)) > 0.3
    assert compare(prediction, reference, (0.3, 50.0), tolerance_mm).surface_dice == pytest.approx(expected)


@pytest.mark.parametrize("pixel_mm", [0.1, 0.3, 0.7, 0.9, 1.1, 1.3])
def test_exactly_95_percent_of_the_surface_is_enough_whatever_its_rounding(pixel_mm: float) -> None:
    reference = np.zeros((4, 64), dtype=bool)
    reference[1, 1:58:3] = True
    prediction = reference.copy()
    prediction[1, 61] = True
    assert (reference.sum(), prediction.sum()) == (19, 20)
    assert compare(prediction, reference, (pixel_mm, pixel_mm), 0.0).hd95_mm == 0.0


def test_surface_metrics_are_undefined_without_surfaces() -> None:
    nothing, something = np.zeros((4, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool)
    no_distances = {"hd95_mm": None, "average_distance_mm": None, "maximum_distance_mm": None}
    one_empty = SurfaceAgreement(surface_dice=0.0, **no_distances)
    assert compare(nothing, something, (1.0, 1.0, 1.0), 1.0) == one_empty
    assert compare(something, nothing, (1.0, 1.0, 1.0), 1.0) == one_empty
    both_empty = SurfaceAgreement(surface_dice=None, **no_distances)
    assert compare(nothing, nothing, (1.0, 1.0, 1.0), 1.0) == both_empty


def test_inputs_are_left_as_they_are() -> None:
    first, second = (draw_blobs((8, 9, 10), seed) for seed in (5, 6))
    copies = (first.copy(), second.copy())
    compare(first, second, (1.0, 1.0, 1.0), 1.0)
    assert np.array_equal(first, copies[0])
    assert np.array_equal(second, copies[1])
