"""Spacing and extent that cannot be right are named; honest datasets are left in peace."""

import pytest
from builders.fingerprints import build_case

from autoseg.workflows.plan.case_warnings import warn_of_intensities, warn_of_spacing

USUAL = [build_case((2.0, 1.2, 1.2), (24, 26, 24), name=f"p{index}") for index in range(5)]


@pytest.mark.parametrize(
    ("spacing_mm", "words"),
    [
        ((2000.0, 1200.0, 1200.0), "2000 x 1200 x 1200 mm (z, y, x) is 1000 times that of the median case, 2 x 1.2"),
        ((20.0, 12.0, 12.0), "is 10 times that of the median case"),
        ((0.2, 0.12, 0.12), "is 0.1 times that of the median case"),
        ((0.002, 0.0012, 0.0012), "is 0.001 times that of the median case"),
        ((60.0, 1.2, 1.2), "is 30 times that of the median case"),
        ((2.0, 1.2, 0.03), "is 0.025 times that of the median case"),
        ((2.0, 1.2, 0.009), "is 0.0075 times"),
        ((51.0, 1.2, 1.2), "51 x 1.2 x 1.2 mm (z, y, x) is more than 50 mm"),
    ],
)
def test_the_case_of_an_implausible_spacing_is_named(spacing_mm, words):
    (warning,) = warn_of_spacing([*USUAL, build_case(spacing_mm, (24, 26, 24), name="odd")], "mm")
    assert warning.startswith("warning: case odd: the spacing of ")
    assert words in warning
    assert warning.endswith("correct it")


def test_a_dataset_in_another_unit_is_compared_with_anatomy():
    small = [build_case((0.002, 0.0012, 0.0012), (24, 26, 24), name=f"p{index}") for index in range(5)]
    (warning,) = warn_of_spacing(small, "mm")
    assert warning.startswith(
        "warning: 5 cases (p0, p1, p2, ...): the spacing of 0.002 x 0.0012 x 0.0012 mm (z, y, x) is less"
    )


@pytest.mark.parametrize(
    ("spacing_mm", "shape"),
    [
        pytest.param((10.0, 0.3, 0.3), (20, 512, 512), id="thick slices"),
        pytest.param((0.1, 1.2, 1.2), (300, 26, 24), id="thin slices"),
        pytest.param((999.0, 1.0, 1.0), (1, 26, 24), id="single slice"),
        pytest.param((0.2, 0.2, 0.2), (240, 160, 160), id="same extent, finer"),
        pytest.param((2.0, 1.2, 1.2), (900, 400, 400), id="whole body"),
        pytest.param((3.0, 3.0, 3.0), (5, 5, 5), id="patch"),
        pytest.param((1.0, 1.0, 1.0), (1, 1, 1), id="one voxel"),
    ],
)
def test_odd_but_honest_grids_are_left_in_peace(spacing_mm, shape):
    assert warn_of_spacing([*USUAL, build_case(spacing_mm, shape)], "mm") == []


def test_micro_ct_and_pictures_are_left_in_peace():
    assert warn_of_spacing([build_case((0.02, 0.02, 0.02), (500, 500, 500))] * 3, "mm") == []
    assert warn_of_spacing([build_case((999.0, 1.0, 1.0), (1, 99, 99)), build_case((60.0, 60.0, 60.0))], "pixel") == []
    assert warn_of_spacing([], "mm") == []


def test_equal_oddities_of_intensities_share_a_line():
    cases = [
        build_case(name=name).model_copy(update={"intensity_warnings": (f"channel 0 (MR) has {count} voxels",)})
        for name, count in (("a", 3), ("b", 5))
    ]
    assert warn_of_intensities([*cases, build_case()]) == ["warning: 2 cases (a, b): channel 0 (MR) has 3 or 5 voxels"]
