import pytest
from builders.fingerprints import build_case

from autoseg.fingerprint import CaseFingerprint
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


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness_mm", [0.1, 1.0, 8.0])
def test_one_case_of_several_slices_changes_nothing_along_any_axis(axis, thickness_mm) -> None:
    def build(slices: int) -> CaseFingerprint:
        shape, spacing_mm = [300, 400, 256], [1.0, 1.0, 1.0]
        shape[axis], spacing_mm[axis] = slices, thickness_mm
        return build_case(tuple(spacing_mm), tuple(shape))

    cases = (*(build(1) for _ in range(5)), build(2))
    decision = choose_axis_permutation(cases[0].spacing_mm, cases)
    assert decision.value[0] == axis
    name = "zyx"[axis]
    assert f"has 1 voxel along {name} (5 of 6 cases are single slices), so that axis comes first" in decision.because


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "first"),
    [
        ((300, 300, 3), (1.0, 1.0, 1.0), 2),
        ((300, 3, 300), (3.0, 0.5, 1.0), 1),
        ((7, 300, 300), (0.2, 0.3, 0.3), 0),
        ((300, 300, 8), (1.0, 1.0, 1.0), 0),  # long enough to be halved: as the reference has it
        ((20, 20, 7), (1.0, 1.0, 1.0), 0),  # small along every axis
        ((300, 5, 5), (1.0, 1.0, 1.0), 0),  # no plane at all
    ],
)
def test_an_axis_of_a_few_voxels_comes_first_where_the_others_are_long(shape, spacing_mm, first) -> None:
    decision = choose_axis_permutation(spacing_mm, (build_case(spacing_mm, shape),) * 3)
    assert decision.value[0] == first
    assert ("too few to be halved" in decision.because) == (min(shape) < 8 and shape[first] == min(shape))
