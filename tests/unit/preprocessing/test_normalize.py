import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from autoseg.errors import PlanError
from autoseg.plan import ChannelPlan, IntensityWindow, NormalizationScheme
from autoseg.preprocessing.normalize import normalize


def make_channel(scheme: NormalizationScheme, *, inside_nonzero_only: bool = False) -> ChannelPlan:
    window = IntensityWindow(lower=-100, upper=200, mean=40, std=50) if scheme == "ct" else None
    return ChannelPlan(name="T1", normalization=scheme, inside_nonzero_only=inside_nonzero_only, window=window)


def make_image() -> np.ndarray:
    return np.random.default_rng(0).normal(70, 30, (1, 4, 5, 6)).astype(np.float32)


def test_ct_is_clipped_to_the_window_of_the_dataset() -> None:
    image = np.array([-1000, -100, 40, 90, 3000], dtype=np.float32).reshape(1, 1, 1, 5)

    result = normalize(image, [make_channel("ct")], None)

    np.testing.assert_allclose(result.ravel(), [-2.8, -2.8, 0, 1, 3.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        ({"lower": 5, "upper": 5, "mean": 5, "std": 0}, r"is 0 \(mean 5\)"),
        ({"lower": 5, "upper": 5, "mean": 5, "std": 1}, r"99 % of its foreground have the intensity 5"),
        ({"lower": 0, "upper": 1e20, "mean": 0, "std": 1}, r"up to 1e\+20 standard deviations"),
        ({"lower": 0, "upper": 1e20, "mean": float("nan"), "std": 1}, "overflow"),
    ],
)
def test_a_window_that_leaves_no_contrast_is_refused(window: dict[str, float], reason: str) -> None:
    channel = ChannelPlan(
        name="CT", normalization="ct", inside_nonzero_only=False, window=IntensityWindow.model_construct(**window)
    )

    with pytest.raises(PlanError, match=f"channel 'CT' cannot be normalized: .*{reason}"):
        normalize(make_image(), [channel], None)


def test_zscore_uses_the_statistics_of_the_image_in_float32() -> None:
    image = make_image()

    result = normalize(image, [make_channel("zscore")], None)

    np.testing.assert_array_equal(result[0], (image[0] - image[0].mean()) / image[0].std())


@pytest.mark.parametrize("scheme", ["zscore", "rescale_to_0_1"])
@pytest.mark.parametrize("value", [0, 7, 1e-9, 1000.1, -3e38])
def test_a_constant_image_becomes_zero_whatever_its_value(scheme: NormalizationScheme, value: float) -> None:
    image = np.full((1, 24, 26, 24), value, dtype=np.float32)  # the float32 mean of so many differs in the last bit

    mask = np.ones(image.shape[1:], dtype=bool)
    for inside in (False, scheme == "zscore"):
        result = normalize(image, [make_channel(scheme, inside_nonzero_only=inside)], mask)
        np.testing.assert_array_equal(result, np.zeros_like(image))


def test_a_small_contrast_on_a_large_offset_is_kept() -> None:
    image = np.array([1e6, 1e6 + 1], dtype=np.float32).reshape(1, 1, 1, 2)

    np.testing.assert_array_equal(normalize(image, [make_channel("zscore")], None).ravel(), [-1, 1])
    np.testing.assert_array_equal(normalize(image, [make_channel("rescale_to_0_1")], None).ravel(), [0, 1])


@contextmanager
def suppress_error(match: str) -> Iterator[None]:
    """Lets only errors of the plan pass that say what is meant."""
    try:
        yield
    except PlanError as error:
        if not re.search(match, str(error)):
            raise


ODD_VALUES = [1e19, 1e25, 3e38, -1e30, float(np.finfo(np.float32).min), 1e-40, -32768]


@pytest.mark.parametrize("scheme", ["ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1"])
@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("share", [1e-4, 0.5, 1])
def test_odd_values_give_finite_arrays_or_an_error_and_no_warning_of_numpy(
    scheme: NormalizationScheme, value: float, share: float
) -> None:
    image = np.random.default_rng(0).normal(100, 10, (1, 10, 40, 30)).astype(np.float32)
    image.reshape(-1)[: max(1, int(share * image.size))] = value
    image.reshape(-1)[-1] = -value * min(share, 0.5)

    result = np.zeros(1)
    with suppress_error(match=r"'T1'.*(found|replace)"):
        result = normalize(image, [make_channel(scheme)], None)

    assert np.isfinite(result).all()
    assert np.abs(result).max() <= 1e15


def test_masked_zscore_looks_at_and_changes_the_nonzero_region_only() -> None:
    image = make_image()
    mask = np.zeros((4, 5, 6), dtype=bool)
    mask[1:3, 2:, 1:5] = True

    result = normalize(image, [make_channel("zscore", inside_nonzero_only=True)], mask)

    inside = image[0][mask]
    np.testing.assert_array_equal(result[0][mask], (inside - inside.mean()) / inside.std())
    np.testing.assert_array_equal(result[0][~mask], image[0][~mask])


def test_an_empty_mask_leaves_the_image_as_it_is() -> None:
    image = np.zeros((1, 2, 2, 2), dtype=np.float32)

    result = normalize(image, [make_channel("zscore", inside_nonzero_only=True)], np.zeros((2, 2, 2), dtype=bool))

    np.testing.assert_array_equal(result, image)


def test_rescaling_spans_zero_to_one() -> None:
    result = normalize(make_image(), [make_channel("rescale_to_0_1")], None)

    assert (result.min(), result.max()) == (0, 1)


def test_colour_is_divided_by_255() -> None:
    image = np.array([0, 51, 255], dtype=np.float32).reshape(1, 1, 1, 3)

    result = normalize(image, [make_channel("rgb_to_0_1")], None)

    np.testing.assert_allclose(result.ravel(), [0, 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize("value", [-1, 256])
def test_colour_out_of_range_is_an_error_that_names_the_values(value: float) -> None:
    image = np.full((1, 1, 1, 2), value, dtype=np.float32)

    with pytest.raises(PlanError, match=rf"'T1'.*0 to 255, found {value} to {value}"):
        normalize(image, [make_channel("rgb_to_0_1")], None)


def test_no_normalization_keeps_the_values() -> None:
    image = make_image()

    result = normalize(image, [make_channel("none")], None)

    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


def test_channels_are_normalized_each_by_its_own_plan() -> None:
    image = np.concatenate([make_image(), make_image() * 2])

    result = normalize(image, [make_channel("none"), make_channel("zscore")], None)

    np.testing.assert_array_equal(result[0], image[0])
    assert abs(result[1].mean()) < 1e-6


def test_a_missing_channel_is_an_error_that_names_the_expected_ones() -> None:
    with pytest.raises(PlanError, match=r"expected 2 image channels \(T1, T1\), found 1"):
        normalize(make_image(), [make_channel("none"), make_channel("zscore")], None)


@pytest.mark.parametrize("scheme", ["ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1"])
def test_views_give_new_contiguous_arrays_and_stay_unchanged(scheme: NormalizationScheme) -> None:
    original = np.random.default_rng(1).uniform(0, 255, (1, 6, 5, 4)).astype(np.float32)
    view = original[:, 1:, ::-1].transpose(0, 3, 1, 2)
    before = original.copy()

    result = normalize(view, [make_channel(scheme)], None)

    assert result.flags.c_contiguous
    np.testing.assert_array_equal(original, before)
    expected = normalize(np.ascontiguousarray(view), [make_channel(scheme)], None)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
