import pytest
from builders.fingerprints import build_case

from planners.rules.axes import choose_axis_permutation


@pytest.mark.parametrize(
    ("target_spacing_mm", "permutation", "axis"),
    [
        ((5.0, 1.0, 1.0), (0, 1, 2), "z"),
        ((1.0, 5.0, 1.0), (1, 0, 2), "y"),
        ((0.7, 0.7, 4.0), (2, 0, 1), "x"),
        ((1.0, 1.0, 1.0), (0, 1, 2), "z"),
        ((0.5, 1.0, 1.0), (1, 0, 2), "y"),
    ],
)
def test_the_coarsest_axis_comes_first(target_spacing_mm, permutation, axis) -> None:
    decision = choose_axis_permutation(target_spacing_mm, (build_case(target_spacing_mm, (10, 10, 10)),))
    assert decision.value == permutation
    assert f"and {axis} is coarsest" in decision.because


def test_the_slice_axis_of_pictures_comes_first_whatever_its_spacing() -> None:
    cases = (build_case((0.1, 1.0, 1.0), (1, 512, 512)), build_case((0.1, 1.0, 1.0), (1, 300, 400)))
    decision = choose_axis_permutation((0.1, 1.0, 1.0), cases)
    assert decision.value == (0, 1, 2)
    assert "every case has a single voxel along z" in decision.because


def test_one_thick_case_among_single_slices_makes_the_spacing_count_again() -> None:
    cases = (build_case((0.1, 1.0, 1.0), (1, 512, 512)), build_case((0.1, 1.0, 1.0), (2, 300, 400)))
    assert choose_axis_permutation((0.1, 1.0, 1.0), cases).value == (1, 0, 2)
