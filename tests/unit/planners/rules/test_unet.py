import pytest

from planners.default import DEFAULT
from planners.residual import RESIDUAL_M
from planners.rules.unet import BASE_FEATURES, MOST_FEATURES, choose_features


@pytest.mark.parametrize(
    ("dimensions", "expected"), [(2, (32, 64, 128, 256, 512, 512, 512)), (3, (32, 64, 128, 256, 320, 320, 320))]
)
def test_features_double_up_to_the_limit_of_the_dimensions(dimensions, expected) -> None:
    decision = choose_features(7, dimensions=dimensions, width=BASE_FEATURES, most=MOST_FEATURES[dimensions])
    assert decision.value == expected
    assert decision.because == f"32 features, doubled in each of the 7 stages up to {expected[-1]} in {dimensions}D"


@pytest.mark.parametrize(
    ("planner", "encoder", "decoder", "words"),
    [
        (DEFAULT, (2,) * 6, (2,) * 5, "2, 2, 2, 2, 2, 2 convolutions in its 6 encoder stages and 2 convolutions"),
        (
            RESIDUAL_M,
            (1, 3, 4, 6, 6, 6),
            (1,) * 5,
            "1, 3, 4, 6, 6, 6 residual blocks in its 6 encoder stages and 1 conv",
        ),
    ],
)
def test_the_architecture_decides_about_the_depth(planner, encoder, decoder, words) -> None:
    decision = planner.profile.choose_network.choose_depth(6)
    assert decision.value == (encoder, decoder)
    assert words in decision.because
