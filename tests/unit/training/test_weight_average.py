import pytest
import torch
from torch import nn

from autoseg.training.optimization.weight_average import WeightAverage, list_averaged_buffers


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


def test_running_statistics_are_averaged_as_weights_are_and_counts_are_not():
    norm = nn.BatchNorm1d(2)
    average = WeightAverage(parameters=list(norm.parameters()), buffers=list_averaged_buffers(norm), decay=0.5)
    assert [value.shape for value in average.values] == [(2,)] * 4
    means = []
    for step in range(3):
        norm(torch.tensor([[0.0, 1.0], [2.0, 5.0]]) + step)
        means.append(norm.running_mean.clone())
        average.update()
    expected = torch.zeros(2)
    for mean, decay in zip(means, (1 / 10, 2 / 11, 3 / 12), strict=True):  # min(decay, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * mean
    with average.in_place():
        torch.testing.assert_close(norm.running_mean, expected)
        assert norm.num_batches_tracked == 3
    assert torch.equal(norm.running_mean, means[-1])


def test_networks_without_running_statistics_have_nothing_more_to_average():
    norm = nn.InstanceNorm1d(2, affine=True)
    assert list_averaged_buffers(norm) == []
    norm.register_buffer("table", torch.ones(1), persistent=False)
    assert list_averaged_buffers(norm) == []
