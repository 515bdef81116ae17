import pytest
import torch
from torch import nn

from autoseg.networks.blocks import NORM_EPSILON, InstanceNormalization


@pytest.mark.parametrize("space", [(9, 7), (5, 6, 7)])
def test_it_is_torch_s_instance_normalization_in_values_and_gradients(space):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((2, 4, *space), generator=generator)
    ours = InstanceNormalization(4)
    kind = nn.InstanceNorm2d if len(space) == 2 else nn.InstanceNorm3d
    theirs = kind(4, eps=NORM_EPSILON, affine=True)
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
            layer.bias.copy_(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    results = []
    for layer in (ours, theirs):
        given = image.clone().requires_grad_()
        output = layer(given)
        (output.square() * torch.arange(output.numel()).reshape(output.shape)).mean().backward()
        results.append((output.detach(), given.grad, layer.weight.grad, layer.bias.grad))
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
