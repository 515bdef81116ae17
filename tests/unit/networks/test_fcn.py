"""What holds for fully convolutional networks, beside the laws of all networks."""

import pytest
import torch
from torch.nn import functional

from autoseg.networks import build_network
from autoseg.networks.families.fcn import build_score_enlargement, set_linear_kernel


@torch.no_grad()
@pytest.mark.parametrize("stride", [(4, 2), (3, 2), (1, 4, 2)])
def test_learnt_upsampling_starts_as_linear_interpolation(stride: tuple[int, ...]) -> None:
    enlargement = build_score_enlargement("transposed", 2, stride)
    set_linear_kernel(enlargement.get_parameter("weight"), stride)
    ramp = torch.arange(5.0)[:, None] + 10 * torch.arange(6.0)
    scores = torch.stack((ramp, -ramp)).expand(1, *(3,) * (len(stride) - 2), 2, 5, 6)
    scores = scores if len(stride) == 2 else scores.movedim(2, 1)
    extents = tuple(extent * step for extent, step in zip(scores.shape[2:], stride, strict=True))
    mode = "bilinear" if len(stride) == 2 else "trilinear"
    expected = functional.interpolate(scores, size=extents, mode=mode)
    found = enlargement(scores)
    assert found.shape == expected.shape
    inside = (..., *(slice(step, extent - step) for step, extent in zip(stride[-2:], extents[-2:], strict=True)))
    torch.testing.assert_close(found[inside], expected[inside])


@torch.no_grad()
def test_the_whole_network_starts_with_linear_upsampling(make_plan) -> None:
    network = build_network(make_plan("fcn", 2))
    weights = [enlargement.get_parameter("weight") for enlargement in network.get_submodule("enlargements").children()]
    assert [tuple(weight.shape) for weight in weights] == [(3, 3, 4, 1), (3, 3, 4, 4)]
    for weight in weights:
        between = weight[~torch.eye(3, dtype=torch.bool)]
        assert not between.any()
        assert weight[0, 0].sum() == weight[1, 1].sum() > 0


@torch.no_grad()
def test_scores_of_all_fused_stages_are_added(make_plan) -> None:
    network, image = build_network(make_plan("fcn", 2)).eval(), torch.randn(1, 2, 16, 8)
    before = network(image)[0]
    network.get_parameter("scores.1.bias").fill_(1)
    inside = (..., slice(2, -2), slice(2, -2))  # transposed convolutions miss neighbours at the border
    torch.testing.assert_close(network(image)[0][inside], (before + 1)[inside])


def test_only_stages_between_the_first_and_the_last_can_be_fused(make_plan) -> None:
    with pytest.raises(ValueError, match="fused_stages must be at most 1"):
        make_plan("fcn", 2, fused_stages=2)
