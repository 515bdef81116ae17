import pytest

from autoseg.training.schedule import compute_learning_rate


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.01), (500, 0.01 * 0.5**0.9), (750, 0.01 * 0.25**0.9), (999, 0.01 * 0.001**0.9)]
)
def test_the_learning_rate_falls_to_almost_nothing(epoch, rate):
    assert compute_learning_rate(0.01, epoch=epoch, epochs=1000, exponent=0.9) == pytest.approx(rate, rel=1e-12)
