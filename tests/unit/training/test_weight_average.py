import pytest
import torch
from torch import nn

from autoseg.training.optimization.weight_average import WeightAverage


@pytest.fixture
def parameter():
    return nn.Parameter(torch.zeros(3))


def set_value(parameter, value):
    with torch.no_grad():
        parameter.fill_(value)


def test_the_average_follows_slowly_once_it_has_seen_enough(parameter):
    average = WeightAverage(parameters=[parameter], decay=0.9, updates=1000)
    set_value(parameter, 1.0)
    average.update()
    assert torch.allclose(average.values[0], torch.full((3,), 0.1))
    average.update()
    assert torch.allclose(average.values[0], torch.full((3,), 0.19))
    assert average.updates == 1002


def test_the_first_weights_are_soon_forgotten(parameter):
    average = WeightAverage(parameters=[parameter], decay=0.999)
    set_value(parameter, 1.0)
    average.update()
    assert torch.allclose(average.values[0], torch.full((3,), 0.9))


def test_the_network_has_the_average_only_inside_the_block(parameter):
    average = WeightAverage(parameters=[parameter], decay=0.9, updates=1000)
    set_value(parameter, 1.0)
    average.update()
    with average.in_place():
        assert torch.allclose(parameter, torch.full((3,), 0.1))
    assert torch.equal(parameter.detach(), torch.ones(3))
    assert torch.allclose(average.values[0], torch.full((3,), 0.1))
