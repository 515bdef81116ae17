"""Odd intensities are named with what they do to normalization; odd but honest images are left in peace."""

import numpy as np
import pytest

from autoseg.intensities import IntensityFindings, examine_image, measure_scale

LOWEST = np.finfo(np.float32).min
SHAPE = (24, 26, 24)
RANDOM = np.random.default_rng(0)


def mark_no_data(image: np.ndarray, *values: float) -> np.ndarray:
    """Gives one slice of an image to each value."""
    marked = image.copy()
    for index, value in enumerate(values):
        marked[index] = value
    return marked


def mark_few(image: np.ndarray, *values: float) -> np.ndarray:
    """Gives thirty voxels of a row of an image to each value."""
    marked = image.copy()
    marked.reshape(-1)[: 30 * len(values)] = np.repeat(values, 30)
    return marked


def build_image(*, background: float | None = None, one_voxel: float | None = None) -> np.ndarray:
    """An MR image between about 60 and 140."""
    image = np.random.default_rng(1).normal(100, 10, SHAPE)
    if background is not None:
        image[:2] = background
    if one_voxel is not None:
        image[5, 5, 5] = one_voxel
    return image


def examine(image: np.ndarray, name: str = "MR", **options: object) -> IntensityFindings:
    return examine_image(image.astype(np.float32)[None], [name], **{"clipped": [False]} | options)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (build_image(one_voxel=1e25), "1 voxel of 1e+25 (the smallest of the others is 6"),
        (build_image(one_voxel=1e25), "overflow single precision"),
        (build_image(one_voxel=-1e18), "1 voxel of -1e+18"),
        (build_image(one_voxel=1e18), "would make all others one constant"),
        (build_image(background=LOWEST), "1248 voxels of -3.403e+38"),
        (build_image(background=-1e30), "1248 voxels of -1e+30"),
        (np.where(RANDOM.random(SHAPE) < 0.8, -1e30, build_image()), "of -1e+30"),
        (np.where(RANDOM.random(SHAPE) < 0.01, 1e25, RANDOM.random(SHAPE) < 0.1), "of 1e+25"),
        (np.where(RANDOM.random(SHAPE) < 0.2, RANDOM.uniform(1e10, 9e10, SHAPE), build_image()), "from 1.0"),
        (build_image(one_voxel=np.nan), "1 voxels with NaN or infinity in channel 0 (MR)"),
    ],
)
def test_what_leaves_nothing_of_an_image_is_a_problem(image: np.ndarray, words: str) -> None:
    found = examine(image)
    assert found.warnings == ()
    (problem,) = found.problems
    assert words in problem
    assert "channel 0 (MR)" in problem
    assert "replace" in problem


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (build_image() * 1e17, "the image cannot be normalized; divide the whole image by a constant, such as 1e16"),
        (build_image() * -1e17, "the image cannot be normalized; divide the whole image by a constant, such as 1e16"),
        (np.array([[[0.0, 1e30]]]), "values from 0 to 1e+30: mean and standard deviation overflow"),
        (np.array([[[0.0, 1e30]]]), "divide the whole image by a constant, such as 1e27"),
        (build_image(one_voxel=1e25) * 1e12, "the rest of the image, such as 6"),
        (build_image(one_voxel=1e20) * 1e17, "e+18, and divide the whole image by a constant, such as 1e16"),
    ],
)
def test_an_image_of_numbers_that_are_too_large_must_be_divided(image: np.ndarray, words: str) -> None:
    (problem,) = examine(image).problems
    assert words in problem


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (build_image(background=LOWEST), f"{build_image()[2:].min():.4g}"),
        (np.where(RANDOM.random(SHAPE) < 0.1, 0, build_image(background=LOWEST)), "0"),
        (build_image(background=-32768) - 1000, f"{build_image()[2:].min() - 1000:.4g}"),
        (np.round(build_image(one_voxel=1e10)) - 1000, f"{np.round(build_image().min()) - 1000:.0f}"),
        (mark_few(np.full(SHAPE, -1000.0) + RANDOM.integers(0, 9, SHAPE), 0, 500), "-999"),
    ],
)
def test_the_remedy_names_a_value_that_the_rest_of_the_image_has(image: np.ndarray, value: str) -> None:
    found = examine(image)
    (text,) = found.problems + found.warnings
    assert text.endswith(f"; replace such values by one that occurs in the rest of the image, such as {value}")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (build_image(one_voxel=1e10), "1 voxel of 1e+10 (the smallest"),
        (build_image(one_voxel=1e10), "90 % of the others span 4e-07 standard deviations"),
        (build_image(background=-32768), "1248 voxels of -32768 (the smallest"),
        (build_image(background=-9999), "1248 voxels of -9999 (the smallest"),
        (mark_no_data(build_image(), -32768, -9999), "1248 voxels from -32768 to -9999 (the smallest"),
        (mark_no_data(build_image(), -32768, -9999, 32767, -20000), "2496 voxels from -32768 to 32767 (the smallest"),
        (
            np.where(RANDOM.random(SHAPE) < 0.002, RANDOM.uniform(1e4, 2e4, SHAPE), build_image(background=-32768)),
            "voxels from -32768 to",
        ),
        (np.where(RANDOM.random(SHAPE) < 0.02, RANDOM.uniform(1e8, 9e8, SHAPE), build_image()), "from 1.0"),
        (
            10.0 ** RANDOM.uniform(-1, 1, SHAPE) + (RANDOM.random(SHAPE) < 0.01) * 10 ** RANDOM.uniform(0, 9, SHAPE),
            "e+0",
        ),
        (np.where(RANDOM.random(SHAPE) < 0.01, -32768, RANDOM.random(SHAPE) < 0.3), "of -32768 (the smallest"),
        (np.full(SHAPE, 1000.1), "all voxels of channel 0 (MR) have the same value (1000.1)"),
        (np.zeros(SHAPE), "all voxels of channel 0 (MR) have the same value (0)"),
        (RANDOM.normal(1e-9, 1e-10, SHAPE), "standard deviation of channel 0 (MR) is 1e-10"),
    ],
)
def test_what_leaves_little_of_an_image_is_a_warning(image: np.ndarray, words: str) -> None:
    found = examine(image)
    assert found.problems == ()
    (warning,) = found.warnings
    assert words in warning


def build_pet() -> np.ndarray:
    image = RANDOM.exponential(0.1, (40, 60, 60))
    image[10:30, 20:40, 20:40] = RANDOM.normal(3000, 1000, (20, 20, 20))
    image[20, 30, 30] = 1e6
    return image


def build_organ(mean: float, std: float, background: np.ndarray) -> np.ndarray:
    image = background.copy()
    image[8:16, 8:16, 8:16] = RANDOM.normal(mean, std, (8, 8, 8))
    return image


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(build_image(), id="MR"),
        pytest.param(build_image(one_voxel=3000), id="MR with a bright voxel"),
        pytest.param(build_pet(), id="PET in Bq/ml"),
        pytest.param(build_organ(100, 10, np.zeros(SHAPE)), id="mostly background"),
        pytest.param(build_organ(310, 1, np.zeros(SHAPE)), id="temperatures before a background of zeros"),
        pytest.param(build_organ(40, 20, RANDOM.normal(-1000, 5, SHAPE)), id="CT before quiet air"),
        pytest.param(np.round(build_organ(40, 8, RANDOM.normal(-1000, 5, SHAPE))), id="CT in whole numbers"),
        pytest.param(build_organ(1e4, 2000, RANDOM.normal(0, 1e-6, SHAPE)), id="ringing around an organ"),
        pytest.param(RANDOM.random(SHAPE) < 0.01, id="binary"),
        pytest.param((RANDOM.random(SHAPE) < 0.3) + RANDOM.normal(0, 1e-9, SHAPE), id="ringing around a mask"),
        pytest.param((build_organ(1, 0, RANDOM.normal(0, 1e-9, SHAPE))), id="ringing around a plateau"),
        pytest.param(RANDOM.integers(0, 4, SHAPE), id="few values"),
        pytest.param(RANDOM.integers(0, 256, (1, 200, 300)), id="photograph"),
        pytest.param(np.pad(np.full((1, 1, 1), 255.0), ((0, 0), (0, 299), (0, 299))), id="one bright pixel"),
        pytest.param(np.pad(np.full((1, 1, 1), 255.0), ((0, 0), (2, 497), (1, 498))), id="one that no sample holds"),
        pytest.param(np.exp(RANDOM.normal(0, 3, SHAPE)), id="heavy tail"),
        pytest.param(np.array([[[1.0, 2.0]]]), id="two voxels"),
    ],
)
def test_odd_but_honest_images_are_left_in_peace(image: np.ndarray) -> None:
    assert examine(image) == IntensityFindings()


def test_outliers_outside_the_labels_do_not_matter_to_ct() -> None:
    foreground = np.zeros(SHAPE, dtype=bool)
    foreground[10:14, 10:14, 10:14] = True
    image = build_image(background=-32768, one_voxel=1e25)
    assert examine(image, "CT", clipped=[True], foreground=foreground) == IntensityFindings()
    assert examine(image, "CT", clipped=[True]) == IntensityFindings()
    image[10, 10, 10] = 1e25
    (problem,) = examine(image, "CT", clipped=[True], foreground=foreground).problems
    assert problem.startswith("channel 0 (CT) has 1 labelled voxel of 1e+25")


def test_an_empty_or_constant_foreground_of_ct_is_left_to_planning() -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    assert examine(build_image(), "CT", clipped=[True], foreground=empty) == IntensityFindings()
    image = build_image()
    image[:3] = 7
    empty[:3] = True
    assert examine(image, "CT", clipped=[True], foreground=empty) == IntensityFindings()


def test_each_channel_is_examined_by_itself() -> None:
    image = np.stack([build_image(one_voxel=1e25), build_image(), np.zeros(SHAPE)]).astype(np.float32)
    found = examine_image(image, ["T1", "T2", "ADC"], clipped=[False] * 3)
    assert [text[:14] for text in found.problems] == ["channel 0 (T1)"]
    assert ["channel 2 (ADC)" in text for text in found.warnings] == [True]


def test_the_scale_of_a_large_channel_is_that_of_a_sample() -> None:
    channel = np.random.default_rng(0).normal(100, 20, (64, 80, 96)).astype(np.float32)
    assert measure_scale(channel) == pytest.approx(20, rel=0.02)
    assert measure_scale(channel[:2, :3, :4]) == pytest.approx(channel[:2, :3, :4].std(), rel=1e-5)
