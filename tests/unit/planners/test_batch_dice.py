import pytest

from planners.rules.batch_dice import choose_batch_dice


@pytest.mark.parametrize(
    ("patch", "median", "has_coarser", "expected", "words"),
    [
        ((64, 64), (128.0, 64.0), False, True, "a patch covers 50 % of one median slice of a case"),
        ((32, 32, 32), (64.0, 64.0, 64.0), True, True, "a patch covers only 12.5 % of the median case"),
        ((32, 64, 64), (64.0, 64.0, 64.0), False, False, "a patch covers 50 % of the median case and no coarser"),
    ],
)
def test_batch_dice_is_for_patches_that_see_little_of_a_case(patch, median, has_coarser, *, expected, words) -> None:
    decision = choose_batch_dice(patch, median, has_coarser_configuration=has_coarser)
    assert decision.value is expected
    assert words in decision.because
