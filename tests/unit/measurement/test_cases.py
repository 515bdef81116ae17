from collections.abc import Sequence

import numpy as np
import pytest
from builders.labels import build_labels

from autoseg.fingerprint import Fingerprint, ForegroundIntensities
from autoseg.intensities import IntensityFindings
from autoseg.labels import LabelScheme
from autoseg.measurement import CaseMeasurement, build_fingerprint, check_case, collect_measurements, measure_case
from autoseg.measurement.foreground import SUMMARY_VALUES

LABELS = build_labels({"organ": (1,), "tumour": (2,)}, ignore_value=3)


def measure(image: np.ndarray, label_map: np.ndarray, labels: LabelScheme = LABELS) -> CaseMeasurement:
    return measure_case("case", image, label_map, spacing_mm=(3.0, 1.0, 0.5), labels=labels)


def measure_values(values: np.ndarray) -> CaseMeasurement:
    """A case with exactly these foreground intensities, and other ones in the background."""
    volume = np.concatenate([values, np.full(values.size, 1e6)]).astype(np.float32)
    label_map = np.repeat(np.array([1, 0], dtype=np.int16), values.size)
    return measure(volume.reshape(1, 2, 1, -1), label_map.reshape(2, 1, -1))


def merge(measurements: Sequence[CaseMeasurement]) -> ForegroundIntensities | None:
    return build(measurements, "CT").channels[0].foreground


def build(measurements: Sequence[CaseMeasurement], channel_name: str) -> Fingerprint:
    with collect_measurements(measurements) as measured:
        return build_fingerprint(
            measured,
            dataset_name="set",
            file_ending=".nii.gz",
            labels=LABELS,
            channel_names=[channel_name],
            orientation="LPS",
        )


def pool_with_equal_weights(cases: Sequence[np.ndarray]) -> np.ndarray:
    """What drawing the same, unlimited number of values from every case leads to."""
    largest = max(case.size for case in cases)
    return np.concatenate([np.repeat(case, largest // case.size) for case in cases]).astype(np.float32)


def test_a_case_is_described_by_its_shape_crop_and_classes() -> None:
    image = np.zeros((2, 4, 5, 6), dtype=np.float32)
    image[1, 1:3, 1:5, 2:4] = 7
    label_map = np.zeros((4, 5, 6), dtype=np.int16)
    label_map[1, 1:3, 2] = 1
    label_map[2, 2:5, 3] = 2

    fingerprint = measure(image, label_map).fingerprint

    assert fingerprint.spacing_mm == (3.0, 1.0, 0.5)
    assert fingerprint.shape_voxels == (4, 5, 6)
    assert fingerprint.cropped_shape_voxels == (2, 4, 2)
    assert fingerprint.relative_size_after_cropping == pytest.approx(16 / 120)
    assert fingerprint.voxel_counts == (2, 3)


def test_voxels_of_a_region_are_those_of_all_its_labels() -> None:
    labels = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
    label_map = np.array([[[0, 1, 1, 2]]], dtype=np.int16)

    measurement = measure(np.ones((1, 1, 1, 4), dtype=np.float32), label_map, labels)

    assert measurement.fingerprint.voxel_counts == (3, 1)


def test_every_case_has_the_same_weight_however_large_it_is() -> None:
    generator = np.random.default_rng(0)
    cases = [
        generator.normal(100, 20, 300_000),
        generator.gamma(2, 30, 100_000) - 50,
        generator.normal(300, 40, 1_000).round(),
    ]
    pool = pool_with_equal_weights(cases)
    std = float(pool.std(dtype=np.float64))

    found = merge([measure_values(case) for case in cases])

    assert found is not None
    assert found.mean == pytest.approx(float(pool.mean(dtype=np.float64)), abs=1e-6 * std)
    assert found.std == pytest.approx(std, rel=1e-6)
    expected = np.percentile(pool, [0.5, 50, 99.5])
    np.testing.assert_allclose(
        [found.percentile_00_5, found.median, found.percentile_99_5], expected, atol=1e-3 * std, rtol=0
    )
    assert (found.min, found.max) == (pool.min(), pool.max())


def test_the_statistics_are_those_of_a_pool_of_many_draws() -> None:
    generator = np.random.default_rng(1)
    cases = [generator.normal(40, 10, 50_000).astype(np.float32), generator.normal(80, 30, 7_003).astype(np.float32)]
    pool = np.concatenate([generator.choice(case, 1_000_000, replace=True) for case in cases])

    found = merge([measure_values(case) for case in cases])

    assert found is not None
    np.testing.assert_allclose(
        [found.mean, found.std, found.percentile_00_5, found.median, found.percentile_99_5],
        [pool.mean(), pool.std(), *np.percentile(pool, [0.5, 50, 99.5])],
        atol=0.02 * pool.std(),  # five standard errors of so few draws
        rtol=0,
    )


def test_percentiles_of_integer_intensities_are_exact() -> None:
    values = np.random.default_rng(2).normal(60, 15, 5_001).round()

    found = merge([measure_values(values)])

    assert found is not None
    assert [found.percentile_00_5, found.median, found.percentile_99_5] == [
        *np.percentile(values, [0.5, 50, 99.5], method="inverted_cdf")
    ]


def test_the_median_of_an_even_count_lies_between_the_middle_two() -> None:
    found = merge([measure_values(np.array([1.0, 2.0, 4.0, 9.0]))])

    assert found is not None
    assert found.median == 3.0


def test_a_summary_of_many_distinct_intensities_stays_small_and_keeps_the_tails() -> None:
    values = np.random.default_rng(3).standard_normal(400_000).astype(np.float32)

    measurement = measure_values(values)
    found = merge([measurement])

    summary = measurement.intensities[0]
    assert summary.values.size <= SUMMARY_VALUES
    assert summary.counts.sum() == values.size
    assert found is not None
    np.testing.assert_allclose(
        [found.percentile_00_5, found.median, found.percentile_99_5],
        np.percentile(values, [0.5, 50, 99.5]),
        atol=1e-3,
        rtol=0,
    )


def test_foreground_does_not_include_what_is_cropped_away() -> None:
    image = np.zeros((1, 1, 1, 5), dtype=np.float32)
    image[0, 0, 0, :3] = [10, 20, 30]
    label_map = np.array([[[0, 1, 2, 0, 1]]], dtype=np.int16)

    found = merge([measure(image, label_map)])

    assert found is not None
    assert (found.min, found.mean, found.max) == (20, 25, 30)


def test_axes_in_any_memory_order_are_measured_alike() -> None:
    generator = np.random.default_rng(4)
    image = generator.normal(size=(1, 6, 7, 8)).astype(np.float32)
    label_map = generator.integers(0, 3, (6, 7, 8)).astype(np.int16)

    turned = measure(image[:, ::-1].transpose(0, 3, 1, 2), label_map[::-1].transpose(2, 0, 1))
    straight = measure(
        np.ascontiguousarray(image[:, ::-1].transpose(0, 3, 1, 2)),
        np.ascontiguousarray(label_map[::-1].transpose(2, 0, 1)),
    )

    assert turned.fingerprint == straight.fingerprint
    np.testing.assert_array_equal(turned.intensities[0].values, straight.intensities[0].values)


def test_a_case_without_foreground_adds_nothing_to_the_intensities() -> None:
    empty = measure(np.ones((1, 1, 2, 2), dtype=np.float32), np.zeros((1, 2, 2), dtype=np.int16))
    filled = measure_values(np.array([5.0, 6.0, 7.0]))

    assert merge([empty, filled]) == merge([filled])
    assert merge([empty]) is None


def test_the_fingerprint_lists_the_cases_and_their_median_crop() -> None:
    label_map = np.ones((2, 2, 2), dtype=np.int16)
    whole = measure(np.ones((1, 2, 2, 2), dtype=np.float32), label_map)
    half_image = np.ones((1, 2, 2, 2), dtype=np.float32)
    half_image[:, 0] = 0
    half = measure(half_image, label_map)

    fingerprint = build([whole, half, half], "T1")

    assert [case.relative_size_after_cropping for case in fingerprint.cases] == [1, 0.5, 0.5]
    assert fingerprint.median_relative_size_after_cropping == 0.5
    assert fingerprint.channels[0].name == "T1"
    assert fingerprint.labels == LABELS


def examine(image: np.ndarray, label_map: np.ndarray | None = None, name: str = "MR") -> IntensityFindings:
    return check_case(image.astype(np.float32), label_map, channel_names=[name] * len(image), labels=LABELS)


def test_a_sound_case_has_no_problems() -> None:
    image = np.arange(8).reshape(1, 2, 2, 2)
    assert examine(image, np.zeros((2, 2, 2), dtype=np.int16)) == IntensityFindings()
    assert examine(image) == IntensityFindings()


def test_values_that_are_no_numbers_are_counted_per_channel() -> None:
    image = np.zeros((3, 2, 2, 2), dtype=np.float32)
    image[1, 0, 0, :] = np.nan
    image[2, 1, 1, 1] = np.inf

    problems = examine(image, np.zeros((2, 2, 2), dtype=np.int16)).problems

    assert len(problems) == 2
    assert "2 voxels" in problems[0]
    assert "channel 1" in problems[0]
    assert "1 voxels" in problems[1]
    assert "channel 2" in problems[1]


@pytest.mark.parametrize("name", ["MR", "CT"])
def test_an_image_whose_class_has_spoiled_values_must_be_restored(name: str) -> None:
    """Zeros in their place would show nothing of the tumour."""
    image = np.random.default_rng(0).normal(100, 10, (1, 24, 24, 24))
    label_map = np.zeros((24, 24, 24), np.int16)
    label_map[4:20, 4:20, 4:20], label_map[8:11, 8:11, 8:11] = 1, 2
    image[0, 8:11, 8:11, 8:11] = 1e25
    image[0, 5, 5, 5] = 1e25
    (problem,) = examine(image, label_map, name).problems
    assert "has 28 " in problem
    assert "; most of them are labelled as class 'tumour': restore the image, " in problem
    assert "replace such values" not in problem


@pytest.mark.parametrize("spoiled", [(slice(5, 6), 5, 5), (slice(0, 2), slice(None), slice(None))])
def test_values_may_be_replaced_where_classes_keep_nearly_all_others(spoiled: tuple[slice | int, ...]) -> None:
    image = np.random.default_rng(0).normal(100, 10, (1, 24, 24, 24))
    label_map = np.zeros((24, 24, 24), np.int16)
    label_map[4:20, 4:20, 4:20], label_map[0, 0, :20] = 1, 2
    image[0][spoiled] = 1e25
    (problem,) = examine(image, label_map).problems
    assert "; replace such values" in problem


def test_different_shapes_of_image_and_labels_are_a_problem() -> None:
    (problem,) = examine(np.zeros((1, 2, 3, 4)), np.zeros((2, 3, 5), dtype=np.int16)).problems

    assert "2 x 3 x 4" in problem
    assert "2 x 3 x 5" in problem


def test_the_ignore_label_is_no_foreground() -> None:
    image = np.array([[[[60.0, 120.0, -1000.0, 1500.0]]]], dtype=np.float32)
    label_map = np.array([[[1, 2, 3, 3]]], dtype=np.int16)

    found = merge([measure(image, label_map)])

    assert found is not None
    assert (found.min, found.max, found.mean) == (60, 120, 90)
    assert measure(image, np.full_like(label_map, 3)).intensities == ()


def test_ct_is_examined_where_it_is_labelled_and_not_ignored() -> None:
    image = np.random.default_rng(0).normal(50, 10, (1, 8, 8, 8))
    label_map = np.ones((8, 8, 8), dtype=np.int16)
    image[0, 0, 0, :2], label_map[0, 0, :2] = 1e25, (3, 0)

    assert examine(image, label_map, "ct") == IntensityFindings()
    assert len(examine(image, label_map, "CT1").problems) == 1
    label_map[0, 0, 0] = 2
    assert len(examine(image, label_map, "ct").problems) == 1
