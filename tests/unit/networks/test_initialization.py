import math

import pytest
import torch
from torch import nn

from autoseg.networks import build_network
from autoseg.networks.blocks import InstanceNormalization, ResidualBlock
from autoseg.networks.initialization import CONVOLUTION_KINDS

WIDE = {"features_per_stage": (48, 64, 64)}


@pytest.mark.parametrize("family", ["plain_unet", "residual_encoder_unet"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_convolution_weights_have_kaimings_variance(make_plan, family: str, dimensions: int) -> None:
    network = build_network(make_plan(family, dimensions, **WIDE), torch.Generator().manual_seed(0))
    convolutions = [module for module in network.modules() if isinstance(module, CONVOLUTION_KINDS)]
    assert any(isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d) for module in convolutions)
    for module in convolutions:
        fan_in = module.weight.shape[1] * math.prod(module.weight.shape[2:])
        expected = math.sqrt(2 / (1 + 0.01**2) / fan_in)
        four_standard_errors = 4 / math.sqrt(2 * module.weight.numel())
        assert module.weight.std().item() == pytest.approx(expected, rel=four_standard_errors)
        assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("family", ["plain_unet", "residual_encoder_unet"])
def test_normalizations_start_at_one_but_the_last_of_a_residual_block_at_zero(make_plan, family: str) -> None:
    network = build_network(make_plan(family))
    last = {id(block.second.norm) for block in network.modules() if isinstance(block, ResidualBlock)}
    norms = [module for module in network.modules() if isinstance(module, InstanceNormalization)]
    assert len(last) == (6 if family == "residual_encoder_unet" else 0)
    for norm in norms:
        assert torch.equal(norm.weight, torch.full_like(norm.weight, 0.0 if id(norm) in last else 1.0))
        assert not norm.bias.any()


def test_the_same_generator_state_gives_the_same_weights(make_plan) -> None:
    first, second, other = (
        build_network(make_plan(), torch.Generator().manual_seed(seed)).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_without_a_generator_the_global_seed_decides(make_plan) -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(build_network(make_plan()).heads[0].weight)
    assert torch.equal(*weights)
