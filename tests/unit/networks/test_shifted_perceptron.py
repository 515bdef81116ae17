"""What holds for channels that are shifted."""

import pytest
import torch

from autoseg.networks.parts.shifted_perceptron import ShiftedPerceptron, shift_channels


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("group", range(5))
def test_an_impulse_in_a_group_of_channels_moves_by_its_shift_along_the_axis(axis: int, group: int) -> None:
    features = torch.zeros(1, 10, 5, 6, 7)
    features[0, 2 * group, 2, 2, 2] = 1
    expected = [0, 2 * group, 2, 2, 2]
    expected[2 + axis] += group - 2
    assert shift_channels(features, axis).nonzero().tolist() == [expected]


def test_voxels_that_are_shifted_over_the_border_are_lost_and_zeros_follow() -> None:
    shifted = shift_channels(torch.ones(1, 5, 3, 1), 0)
    assert shifted[0, :, :, 0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]]


def test_fewer_channels_than_shifts_are_shifted_by_the_first_of_them() -> None:
    features = torch.arange(3.0).reshape(1, 1, 3, 1).expand(1, 2, 3, 1)
    assert shift_channels(features, 0)[0, :, :, 0].tolist() == [[2, 0, 0], [1, 2, 0]]


def test_the_perceptron_does_not_reach_along_axes_with_kernels_of_one_voxel() -> None:
    perceptron = ShiftedPerceptron(10, (1, 3, 3))
    assert len(perceptron.linear) == 3
    features = torch.randn(1, 10, 5, 6, 7)
    changed = features.clone()
    changed[:, :, 2] += 1
    difference = (perceptron(changed) - perceptron(features)).abs().amax(dim=(0, 1, 3, 4))
    assert difference[2] > 0
    assert difference[[0, 1, 3, 4]].max() == 0


def test_a_perceptron_whose_last_layer_is_zero_is_the_identity() -> None:
    perceptron = ShiftedPerceptron(5, (3, 3))
    for parameter in perceptron.linear[-1].parameters():
        torch.nn.init.zeros_(parameter)
    features = torch.randn(2, 5, 4, 6)
    assert torch.equal(perceptron(features), features)
