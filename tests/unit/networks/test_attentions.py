"""What holds for single attention modules: examples of two channels of two voxels, computed by hand."""

from math import exp

import pytest
import torch
from torch import Tensor, nn

from autoseg.networks import build_network
from autoseg.networks.parts.attentions import build_attention
from autoseg.plan.network.attentions import ATTENTION_PLANS
from planners import ARCHITECTURES

FEATURES = torch.tensor([[1.0, 3.0], [0.0, 2.0]]).view(1, 2, 1, 2)


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def build(name: str, **fields: int) -> nn.Module:
    """With weights of 1 and biases of 0."""
    module = build_attention(ATTENTION_PLANS[name].model_validate({"reduction": 2, **fields}), 2, (1, 1))
    for parameter in module.parameters():
        nn.init.constant_(parameter, float(parameter.ndim > 1))
    return module


@torch.no_grad()
def test_cbam_scales_channels_then_voxels_by_means_and_maxima() -> None:
    # Both hidden units sum the channels: 2 + 1 of the means, 3 + 2 of the maxima; both channels get sigmoid(16).
    channel = sigmoid(16)
    first, second = (value * channel for value in ((1 + 0) / 2 + 1, (3 + 2) / 2 + 3))  # mean and maximum of channels
    voxels = torch.tensor([sigmoid(first), sigmoid(second)])
    torch.testing.assert_close(build("cbam", kernel=7)(FEATURES), FEATURES * channel * voxels)


@torch.no_grad()
def test_scse_adds_features_scaled_by_channel_and_by_voxel() -> None:
    channel = sigmoid(2 * (2 + 1))  # of each of two hidden units: the sum of the means
    voxels = torch.tensor([sigmoid(1), sigmoid(5)])  # the sum of the channels
    torch.testing.assert_close(build("scse")(FEATURES), FEATURES * channel + FEATURES * voxels)


@torch.no_grad()
def test_dual_excitation_scales_channels_and_takes_no_voxel_away() -> None:
    channel = sigmoid(2 * (2 + 1))  # of each of two hidden units: the sum of the means
    voxels = torch.tensor([1 + sigmoid(1), 1 + sigmoid(5)])  # one hidden unit: the sum of the channels
    torch.testing.assert_close(build("dual_excitation")(FEATURES), FEATURES * channel * voxels)


@torch.no_grad()
def test_se_with_a_large_bias_is_the_identity() -> None:
    module = build("se")
    nn.init.constant_(module.get_parameter("excite.bias"), 20)
    torch.testing.assert_close(module(FEATURES), FEATURES, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "extents"), [((3, 3), (7, 7)), ((1, 3, 3), (1, 7, 7))])
def test_weights_of_voxels_in_cbam_follow_the_kernel_of_the_stage(
    kernel: tuple[int, ...], extents: tuple[int, ...]
) -> None:
    plan = ATTENTION_PLANS["cbam"].model_validate({"reduction": 2, "kernel": 7})
    weight: Tensor = build_attention(plan, 4, kernel).get_parameter("voxels.weight")
    assert weight.shape == (1, 2, *extents)


@pytest.mark.parametrize(("channels", "hidden"), [(4, 4), (16, 8), (32, 8), (256, 16)])
def test_there_are_enough_hidden_units_for_one_to_have_a_gradient(channels: int, hidden: int) -> None:
    for name, fields in (("se", {}), ("cbam", {"kernel": 7})):
        module = build_attention(ATTENTION_PLANS[name].model_validate({"reduction": 16} | fields), channels, (3, 3))
        assert module.get_parameter("squeeze.weight").shape == (hidden, channels, 1, 1)


@pytest.mark.parametrize("name", ["se_unet", "cbam_unet", "sau_net"])
def test_every_weight_of_the_narrow_networks_of_small_computers_has_a_gradient(name: str) -> None:
    architecture = ARCHITECTURES[name]
    topology = architecture.topology.compute((1.0, 1.0), (16, 16))
    plan, _ = architecture.choose_network(topology, input_channels=1, output_channels=2, width=16)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        network = build_network(plan, generator)
        sum(output.square().sum() for output in network(torch.randn((1, 1, 16, 16), generator=generator))).backward()
        still = [key for key, value in network.named_parameters() if key.endswith("weight") and not value.grad.any()]
        assert still == []
