from dataclasses import replace

import numpy as np
import pytest
from builders.labels import build_labels
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import EvaluationError
from autoseg.evaluation import ClassMetrics, evaluate_case
from autoseg.evaluation.lesions import LesionCounts
from autoseg.evaluation.surface import compute_surface_agreement

SPACING_MM = (3.0, 1.0, 0.5)


def draw_label_map(shape: tuple[int, int, int], label_count: int, seed: int) -> NDArray[np.int16]:
    noise = np.random.default_rng(seed).standard_normal((label_count, *shape))
    return ndimage.gaussian_filter(noise, (0, 2, 2, 2)).argmax(axis=0).astype(np.int16)


def test_a_small_case_has_the_metrics_computed_by_hand() -> None:
    reference, prediction = np.zeros((4, 5, 6), dtype=np.uint8), np.zeros((4, 5, 6), dtype=np.uint8)
    reference[1:3, 1:3, 1:3] = 1
    prediction[1:3, 1:3, 2:5] = 1
    (metrics,) = evaluate_case(
        prediction, reference, spacing_mm=SPACING_MM, labels=build_labels({"cube": (1,)}), tolerance_mm=10.0
    )
    assert replace(metrics, average_distance_mm=None) == ClassMetrics(
        dice=8 / 20,
        iou=4 / 16,
        true_positives=4,
        false_positives=8,
        false_negatives=4,
        true_negatives=104,
        predicted_voxels=12,
        reference_voxels=8,
        hd95_mm=1.0,  # the far end of the prediction: two voxels of 0.5 mm
        surface_dice=1.0,
        volume_difference_ml=4 * 1.5 / 1000,
        relative_volume_difference=0.5,
        pixel_accuracy=108 / 120,
        volume_overlap_error=12 / 16,
        average_distance_mm=None,  # `test_surface` compares it
        maximum_distance_mm=1.0,
        lesions=LesionCounts(true_positives=1, false_positives=0, false_negatives=0),
    )


def test_two_squares_that_overlap_in_half_have_the_published_scores() -> None:
    reference, prediction = np.zeros((1, 2, 3), dtype=np.uint8), np.zeros((1, 2, 3), dtype=np.uint8)
    reference[..., 0:2], prediction[..., 1:3] = 1, 1
    (metrics,) = evaluate_case(prediction, reference, spacing_mm=(999.0, 1.0, 1.0), labels=build_labels({"a": (1,)}))
    assert (metrics.dice, metrics.relative_volume_difference) == (0.5, 0.0)
    assert metrics.volume_overlap_error == pytest.approx(2 / 3)
    # Half of the length of each contour lies on the other one, the other half one pixel away.
    assert (metrics.average_distance_mm, metrics.maximum_distance_mm) == (pytest.approx(0.5), 1.0)


def test_pixel_accuracy_counts_every_label_of_the_case_and_no_ignored_voxel() -> None:
    labels = build_labels({"a": (1,), "b": (2,)}, ignore_value=3)
    prediction, reference = (np.array([[row]], dtype=np.uint8) for row in ([0, 1, 2, 2, 0, 1], [0, 1, 1, 2, 3, 3]))
    results = evaluate_case(prediction, reference, spacing_mm=SPACING_MM, labels=labels)
    assert [metrics.pixel_accuracy for metrics in results] == [3 / 4, 3 / 4]


def test_each_class_equals_its_masks_compared_alone() -> None:
    labels = build_labels({"a": (1,), "b": (2,), "c": (3,)})
    prediction, reference = (draw_label_map((10, 12, 14), 4, seed) for seed in (0, 1))
    results = evaluate_case(prediction, reference, spacing_mm=SPACING_MM, labels=labels, tolerance_mm=2.0)
    for label, metrics in enumerate(results, start=1):
        predicted, referenced = prediction == label, reference == label
        agreement = compute_surface_agreement(predicted, referenced, spacing_mm=SPACING_MM, tolerance_mm=2.0)
        assert metrics.dice == 2 * (predicted & referenced).sum() / (predicted.sum() + referenced.sum())
        assert metrics.true_negatives == (~predicted & ~referenced).sum()
        assert metrics.hd95_mm == agreement.hd95_mm
        assert metrics.surface_dice == pytest.approx(agreement.surface_dice)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.int64])
def test_the_integer_type_of_the_label_maps_plays_no_part(kind: type[np.integer]) -> None:
    labels = build_labels({"a": (1,), "b": (2,)})
    prediction, reference = (draw_label_map((6, 7, 8), 3, seed) for seed in (0, 1))
    expected = evaluate_case(prediction, reference, spacing_mm=SPACING_MM, labels=labels)
    assert evaluate_case(prediction.astype(kind), reference, spacing_mm=SPACING_MM, labels=labels) == expected
    assert evaluate_case(prediction, reference.astype(kind), spacing_mm=SPACING_MM, labels=labels) == expected


def test_a_perfect_prediction_has_perfect_metrics() -> None:
    labels = build_labels({"a": (1,), "b": (2,)})
    reference = draw_label_map((8, 9, 10), 3, seed=2)
    for metrics in evaluate_case(reference.copy(), reference, spacing_mm=SPACING_MM, labels=labels):
        assert (metrics.dice, metrics.iou, metrics.surface_dice, metrics.hd95_mm) == (1.0, 1.0, 1.0, 0.0)
        assert (metrics.volume_difference_ml, metrics.relative_volume_difference) == (0.0, 0.0)


def test_dice_and_surface_dice_are_symmetric_and_volume_difference_changes_its_sign() -> None:
    labels = build_labels({"a": (1,), "b": (2,)})
    first, second = (draw_label_map((8, 9, 10), 3, seed) for seed in (3, 4))
    there = evaluate_case(first, second, spacing_mm=SPACING_MM, labels=labels)
    back = evaluate_case(second, first, spacing_mm=SPACING_MM, labels=labels)
    for one, other in zip(there, back, strict=True):
        assert (one.dice, one.iou, one.hd95_mm) == (other.dice, other.iou, other.hd95_mm)
        assert one.surface_dice == pytest.approx(other.surface_dice, rel=1e-12)
        assert one.volume_difference_ml == -other.volume_difference_ml


@pytest.mark.parametrize(
    ("in_prediction", "in_reference", "overlap", "relative"),
    [(False, False, None, None), (True, False, 0.0, None), (False, True, 0.0, -1.0)],
)
def test_metrics_of_missing_classes_are_zero_or_undefined(
    *, in_prediction: bool, in_reference: bool, overlap: float | None, relative: float | None
) -> None:
    prediction, reference = np.zeros((3, 3, 3), dtype=np.int16), np.zeros((3, 3, 3), dtype=np.int16)
    prediction[1, 1, 1], reference[1, 1, 1] = in_prediction, in_reference
    (metrics,) = evaluate_case(prediction, reference, spacing_mm=SPACING_MM, labels=build_labels({"a": (1,)}))
    assert (metrics.dice, metrics.iou, metrics.surface_dice, metrics.hd95_mm) == (overlap, overlap, overlap, None)
    assert metrics.relative_volume_difference == relative
    assert metrics.volume_overlap_error == (None if overlap is None else 1 - overlap)
    assert (metrics.lesions.f1, metrics.average_distance_mm, metrics.maximum_distance_mm) == (overlap, None, None)
    assert metrics.volume_difference_ml == pytest.approx((in_prediction - in_reference) * 1.5 / 1000)


def test_voxels_that_the_reference_ignores_count_nowhere() -> None:
    labels = build_labels({"a": (1,), "b": (2,)}, ignore_value=3)
    prediction, reference = (draw_label_map((8, 9, 10), 3, seed) for seed in (5, 6))
    ignored = draw_label_map((8, 9, 10), 4, seed=7) == 0
    marked = np.where(ignored, 3, reference).astype(np.int16)
    cleared = [np.where(ignored, 0, side) for side in (prediction, reference)]

    results = evaluate_case(prediction, marked, spacing_mm=SPACING_MM, labels=labels)

    correct = ((cleared[0] == cleared[1]) & ~ignored).sum() / (~ignored).sum()
    expected = evaluate_case(*cleared, spacing_mm=SPACING_MM, labels=labels)
    surfaces = [
        compute_surface_agreement(
            *(side == label for side in cleared), spacing_mm=SPACING_MM, tolerance_mm=1.0, ignored=ignored
        )
        for label in (1, 2)
    ]
    assert results == tuple(
        replace(
            metrics,
            true_negatives=metrics.true_negatives - int(ignored.sum()),
            pixel_accuracy=float(correct),
            hd95_mm=surface.hd95_mm,
            surface_dice=surface.surface_dice,
            average_distance_mm=surface.average_distance_mm,
            maximum_distance_mm=surface.maximum_distance_mm,
        )
        for metrics, surface in zip(expected, surfaces, strict=True)
    )


def test_surfaces_in_a_single_annotated_slice_are_its_contours() -> None:
    labels = build_labels({"a": (1,)}, ignore_value=2)
    rows, columns = np.mgrid[:40, :40]
    prediction, reference = (
        np.repeat((np.hypot(rows - 20, columns - centre) < radius).astype(np.int16)[None], 5, axis=0)
        for radius, centre in ((10, 20), (12, 17))
    )
    slice_alone = evaluate_case(prediction[:1], reference[:1], spacing_mm=(1.0, 0.5, 0.8), labels=labels)[0]
    reference[[0, 1, 3, 4]] = 2
    found = evaluate_case(prediction, reference, spacing_mm=(1.0, 0.5, 0.8), labels=labels)[0]
    for name in ("dice", "hd95_mm", "surface_dice", "average_distance_mm", "maximum_distance_mm"):
        assert getattr(found, name) == pytest.approx(getattr(slice_alone, name)), name


def test_a_class_that_fills_what_is_not_ignored_has_no_surface() -> None:
    labels = build_labels({"a": (1,)}, ignore_value=2)
    reference = np.full((7, 8, 9), 2, np.int16)
    reference[2:5, 2:5, 2:5] = 1
    prediction = np.ones_like(reference)
    full = evaluate_case(prediction, reference, spacing_mm=SPACING_MM, labels=labels)[0]
    assert (full.dice, full.surface_dice, full.hd95_mm, full.average_distance_mm) == (1, None, None, None)
    prediction[3, 3, 3] = 0
    assert evaluate_case(prediction, reference, spacing_mm=SPACING_MM, labels=labels)[0].surface_dice == 0


def test_a_region_is_the_union_of_its_labels() -> None:
    # Values 10, 20, 30 of the files are the labels 1, 2, 3.
    regions = build_labels({"whole": (10, 20, 30), "core": (20, 30), "rim": (10,)}, region_write_values=(10, 20, 10))
    prediction, reference = (draw_label_map((8, 9, 10), 4, seed) for seed in (8, 9))
    single = build_labels({"only": (1,)})
    expected = [
        evaluate_case(
            np.isin(prediction, members).astype(np.uint8),
            np.isin(reference, members).astype(np.uint8),
            spacing_mm=SPACING_MM,
            labels=single,
        )[0]
        for members in ((1, 2, 3), (2, 3), (1,))
    ]
    results = evaluate_case(prediction, reference, spacing_mm=SPACING_MM, labels=regions)
    accuracy = float((prediction == reference).mean())  # of all labels, whichever regions they form
    assert results == tuple(replace(metrics, pixel_accuracy=accuracy) for metrics in expected)


def test_a_region_may_contain_the_background() -> None:
    regions = build_labels({"all but one": (0, 2), "one": (1,)}, region_write_values=(2, 1))
    prediction, reference = np.zeros((5, 5, 5), dtype=np.uint8), np.zeros((5, 5, 5), dtype=np.uint8)
    prediction[2, 2, 2:4] = 1
    reference[2, 2, 2] = 1
    outside, _ = evaluate_case(prediction, reference, spacing_mm=SPACING_MM, labels=regions)
    assert (outside.predicted_voxels, outside.reference_voxels, outside.true_positives) == (123, 124, 123)
    masks = (prediction == 0, reference == 0)
    agreement = compute_surface_agreement(*masks, spacing_mm=SPACING_MM, tolerance_mm=1.0)
    assert (outside.hd95_mm, outside.surface_dice) == (agreement.hd95_mm, agreement.surface_dice)


def test_an_image_of_one_slice_is_measured_in_its_plane() -> None:
    labels = build_labels({"a": (1,)})
    prediction, reference = (draw_label_map((1, 20, 24), 2, seed) for seed in (10, 11))
    (metrics,) = evaluate_case(prediction, reference, spacing_mm=(999.0, 0.7, 1.3), labels=labels)
    agreement = compute_surface_agreement(
        prediction[0] == 1, reference[0] == 1, spacing_mm=(0.7, 1.3), tolerance_mm=1.0
    )
    assert (metrics.hd95_mm, metrics.surface_dice) == (agreement.hd95_mm, agreement.surface_dice)
    assert 0 < metrics.surface_dice < 1
    assert metrics.volume_difference_ml is None
    assert metrics.relative_volume_difference is not None


def test_an_image_without_foreground_has_no_overlap() -> None:
    nothing = np.zeros((1, 4, 4), dtype=np.uint8)
    (metrics,) = evaluate_case(nothing, nothing, spacing_mm=(999.0, 1.0, 1.0), labels=build_labels({"a": (1,)}))
    assert (metrics.dice, metrics.surface_dice, metrics.true_negatives) == (None, None, 16)


def test_an_object_in_one_slice_of_a_volume_keeps_its_three_dimensions() -> None:
    prediction, reference = np.zeros((5, 6, 6), dtype=np.uint8), np.zeros((5, 6, 6), dtype=np.uint8)
    reference[2, 1:4, 1:4], prediction[2, 1:4, 2:5] = 1, 1
    (metrics,) = evaluate_case(prediction, reference, spacing_mm=SPACING_MM, labels=build_labels({"a": (1,)}))
    masks = (prediction == 1, reference == 1)
    agreement = compute_surface_agreement(*masks, spacing_mm=SPACING_MM, tolerance_mm=1.0)
    assert metrics.surface_dice == pytest.approx(agreement.surface_dice)
    assert metrics.volume_difference_ml is not None


def test_different_shapes_are_the_users_mistake() -> None:
    with pytest.raises(EvaluationError, match=r"must have the reference's shape \(2, 3, 4\) .* found \(2, 3, 5\)"):
        evaluate_case(
            np.zeros((2, 3, 5), dtype=np.uint8),
            np.zeros((2, 3, 4), dtype=np.uint8),
            spacing_mm=SPACING_MM,
            labels=build_labels({"a": (1,)}),
        )


def test_a_label_beyond_the_scheme_is_the_users_mistake() -> None:
    known, unknown = np.ones((2, 3, 4), dtype=np.uint8), np.full((2, 3, 4), 2, dtype=np.uint8)
    with pytest.raises(EvaluationError, match="the prediction must hold the labels 0 to 1, found 2"):
        evaluate_case(unknown, known, spacing_mm=SPACING_MM, labels=build_labels({"a": (1,)}))
