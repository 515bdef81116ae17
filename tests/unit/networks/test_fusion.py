"""Modules that are trained in parallel branches and predict as one convolution."""

import pytest
import torch
from torch import nn

from autoseg.inference.execution.preparation import prepare_network
from autoseg.networks import build_network
from autoseg.networks.blocks import CONVOLUTIONS
from autoseg.networks.fusion import FusibleModule, RepConvolution, fuse_modules

CPU = torch.device("cpu")
each_block = pytest.mark.parametrize("block", ["block rep", "block csp_rep"])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels_out", [6, 8], ids=["with identity", "without identity"])
@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (3, 3, 3), (1, 3, 3), (1, 3, 5), (1, 1, 1)])
def test_branches_are_one_convolution_after_fusion(kernel, channels_out: int, *, bias: bool) -> None:
    torch.manual_seed(0)
    branches = RepConvolution(6, channels_out, kernel, bias=bias)
    features = torch.randn(2, 6, *(8,) * len(kernel))
    with torch.no_grad():
        expected = branches(features)
        network = nn.Sequential(branches)
        fuse_modules(network)
        found = network(features)
    assert type(network[0]) in CONVOLUTIONS.values()
    assert (network[0].bias is not None) == bias
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@each_block
@pytest.mark.parametrize("dimensions", [2, 3])
@torch.no_grad()
def test_a_network_predicts_the_same_with_fused_modules(make_plan, block: str, dimensions: int) -> None:
    plan = make_plan(block, dimensions)
    network = build_network(plan, torch.Generator().manual_seed(0)).eval()
    image = torch.randn(1, plan.input_channels, *(8 * divisor for divisor in plan.patch_divisors))
    expected = network(image)[0]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    prepared = prepare_network(network, device=CPU, dtype="float32")
    assert not any(isinstance(module, FusibleModule) for module in prepared.modules())
    assert sum(parameter.numel() for parameter in prepared.parameters()) < parameters
    torch.testing.assert_close(prepared(image)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_network_in_training_keeps_its_branches(make_plan) -> None:
    network = build_network(make_plan("block rep"))
    assert any(isinstance(module, FusibleModule) for module in network.modules())
