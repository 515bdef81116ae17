import pytest

from autoseg.validation_conditions import ValidationConditions, describe_shortage, is_hopeless

WHOLE = ValidationConditions(validated_cases=16, held_out_cases=16, trained_iterations=1500, sufficient_iterations=1500)


def change(**changes):
    return WHOLE.model_copy(update=changes)


def test_a_whole_validation_of_a_long_training_needs_no_words():
    assert WHOLE.list_limits() == ()
    assert WHOLE.list_warnings() == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"validated_cases": 5}, "5 of 16 held-out cases"),
        ({"mirroring": False}, "no mirrored views"),
        ({"step_fraction": 0.75}, "windows 0.75 of a patch apart instead of 0.5"),
    ],
)
def test_whatever_a_validation_did_without_is_said_beside_its_scores(changes, told):
    (warning,) = change(**changes).list_warnings()
    assert told in warning
    assert "compare its scores with none of a whole one" in warning


@pytest.mark.parametrize(("iterations", "share"), [(749, "50 %"), (150, "10 %"), (108, "7 %"), (0, "0 %")])
def test_fewer_than_half_of_the_iterations_are_said_beside_the_scores(iterations, share):
    (warning,) = change(trained_iterations=iterations).list_warnings()
    assert warning.startswith(f"{iterations:,} iterations are {share} of the 1,500 that the plan needs at least")


def test_half_of_the_iterations_need_no_words_and_an_unknown_need_none_at_all():
    assert describe_shortage(750, 1500) is None
    assert describe_shortage(1, None) is None
    assert "1 iteration is 0 %" in describe_shortage(1, 1500)


def test_less_than_a_tenth_is_hopeless():
    assert is_hopeless(149, 1500)
    assert not is_hopeless(150, 1500)
    assert not is_hopeless(0, None)
