import pytest

from planners.architectures.fcn import choose_fused_stages, choose_head


def test_the_classifier_is_eight_times_as_wide_as_the_stage_above():
    decision = choose_head(320, (3, 3, 3))
    assert decision.value == 2560
    assert decision.because.startswith(
        "8 times the 320 features of the stage above, as published; kernels of 3 x 3 x 3"
    )


@pytest.mark.parametrize(
    ("wanted", "stages", "fused", "because"),
    [
        (2, 6, 2, "as published; the network has 4 stages between the first and the last"),
        (2, 3, 1, "2 as published, but the network has 1 stage between the first and the last"),
        (1, 2, 0, "1 as published, but the network has 0 stages between the first and the last"),
    ],
)
def test_as_many_stages_are_fused_as_there_are(wanted, stages, fused, because):
    decision = choose_fused_stages(wanted, stages)
    assert (decision.value, decision.because) == (fused, because)
