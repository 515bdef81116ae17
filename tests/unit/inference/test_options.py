import pytest

from autoseg.errors import PredictionError
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions


@pytest.mark.parametrize("step_fraction", [0.0, -0.5, 1.01, float("nan")])
def test_a_step_outside_its_range_is_refused(step_fraction):
    with pytest.raises(PredictionError, match=f"above 0 and at most 1.*found {step_fraction}"):
        PredictionOptions(step_fraction=step_fraction)


@pytest.mark.parametrize("step_fraction", [0.05, 1.0])
def test_the_ends_of_the_range_are_allowed(step_fraction):
    assert PredictionOptions(step_fraction=step_fraction).step_fraction == step_fraction


def test_an_unknown_decoding_is_answered_with_the_known_ones():
    options = PredictionOptions()
    object.__setattr__(options, "decoding", "softmax")  # types of arguments are checked while tests run, not in scripts
    with pytest.raises(PredictionError, match="'softmax'; choose one of: argmax, dice"):
        options.__post_init__()


def test_windows_overlap_by_half_and_are_mirrored_unless_said_otherwise():
    assert PredictionOptions(step_fraction=0.5, mirroring=True) == DEFAULT_OPTIONS
