import pytest
from builders.fingerprints import build_case

from planners.rules.dimensionality import choose_dimensionality
from planners.rules.median_shape import compute_resampled_dataset


@pytest.mark.parametrize(
    ("spacings_and_shapes", "expected", "words"),
    [
        ([((999.0, 1.0, 1.0), (1, 64, 64))] * 3, (2,), "is 1 deep along the first plan axis and 3 of 3 cases"),
        ([((2.0, 1.0, 1.0), (2, 64, 64))] * 3, (2, 3), "is 2 deep along the first plan axis and 0 of 3 cases"),
        # The median case is a picture although one case is not.
        (
            [((2.0, 1.0, 1.0), (depth, 64, 64)) for depth in (1, 1, 9)],
            (2,),
            "is 1 deep along the first plan axis and 2",
        ),
        # Most cases are single slices, though the median after resampling is not.
        (
            [((value, 1.0, 1.0), (depth, 64, 64)) for value, depth in ((1.0, 1), (9.0, 1), (9.0, 1), (1.0, 20))],
            (2,),
            "and 3 of 4 cases are single slices",
        ),
        # Slices of differing thickness: the finest would make volumes of single slices.
        ([((value, 1.0, 1.0), (1, 64, 64)) for value in (1.0, 9.0)], (2,), "and 2 of 2 cases are single slices"),
    ],
)
def test_single_slices_are_planned_in_2d_only(spacings_and_shapes, expected, words) -> None:
    cases = tuple(build_case(spacing_mm, shape) for spacing_mm, shape in spacings_and_shapes)
    dataset = compute_resampled_dataset(cases, target_spacing_mm=cases[0].spacing_mm, axis_permutation=(0, 1, 2))
    decision = choose_dimensionality(dataset, cases, (0, 1, 2))
    assert decision.value == expected
    assert words in decision.because
