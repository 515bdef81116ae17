import pytest
from builders.fingerprints import build_case

from planners.rules.spacing import choose_target_spacing


def test_the_target_spacing_of_isotropic_data_is_the_median() -> None:
    cases = tuple(build_case((2.0, 1.0, value), (100, 100, 100)) for value in (0.5, 1.0, 2.5))
    decision = choose_target_spacing(cases)
    assert decision.value == (2.0, 1.0, 1.0)
    assert "2 x 1 x 1 mm (coarsest axis 2 times the next)" in decision.because
    assert "not anisotropic" in decision.because


def test_a_very_coarse_axis_takes_the_tenth_percentile_of_its_spacings() -> None:
    cases = tuple(build_case((value, 1.0, 1.0), (20, 256, 256)) for value in (3.0, 5.0, 8.0))
    decision = choose_target_spacing(cases)
    assert decision.value == pytest.approx((3.4, 1.0, 1.0))
    assert "10th percentile of its spacings, 3.4 mm" in decision.because


def test_the_finer_coarse_axis_stays_the_coarsest() -> None:
    cases = tuple(build_case((value, 1.0, 1.0), (20, 256, 256)) for value in (0.5, 0.5, 5.0, 5.0, 5.0))
    decision = choose_target_spacing(cases)
    assert decision.value == (1.0 + 1e-5, 1.0, 1.0)
    assert "0.5 mm, but not less than the 1 mm of the next axis" in decision.because


@pytest.mark.parametrize(
    ("spacing_mm", "shape"),
    [
        ((3.0, 1.0, 1.0), (20, 256, 256)),  # exactly three times as coarse
        ((5.0, 1.0, 1.0), (100, 300, 400)),  # exactly a third of the extent
        ((5.0, 2.0, 1.0), (20, 256, 256)),  # not three times the next axis
    ],
)
def test_the_limits_of_anisotropy_themselves_do_not_count_as_anisotropic(spacing_mm, shape) -> None:
    finer = build_case((spacing_mm[0] / 2, *spacing_mm[1:]), shape)
    cases = (finer, *[build_case(spacing_mm, shape)] * 9)
    assert choose_target_spacing(cases).value == spacing_mm


def test_anisotropy_is_found_along_any_axis() -> None:
    cases = tuple(build_case((1.0, 1.0, value), (256, 256, 20)) for value in (3.0, 5.0, 8.0))
    assert choose_target_spacing(cases).value == pytest.approx((1.0, 1.0, 3.4))
