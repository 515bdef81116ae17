import pytest

from planners.rules.resampling import choose_resampling


@pytest.mark.parametrize(
    ("spacing_mm", "words"),
    [
        ((1.0, 1.0, 1.0), "the coarsest axis is 1 times the finest, not more than 3, so only cases that exceed that"),
        ((3.0, 1.0, 1.0), "the coarsest axis is 3 times the finest, not more than 3"),
        (
            (5.0, 1.0, 1.0),
            "the coarsest axis is 5 times the finest, more than 3, so cases are resampled slice by slice",
        ),
        ((1.25, 1.25, 0.25), "is 5 times the finest, more than 3, but two axes tie for it"),
        ((0.7, 0.8), "slices are resampled to 0.7 x 0.8 mm and their distance stays"),
    ],
)
def test_orders_are_fixed_and_the_reason_tells_what_becomes_of_a_coarse_axis(spacing_mm, words) -> None:
    decision = choose_resampling(spacing_mm)
    plan = decision.value
    assert (plan.image_order, plan.label_order, plan.logits_order, plan.anisotropy_threshold) == (3, 1, 1, 3.0)
    assert words in decision.because
