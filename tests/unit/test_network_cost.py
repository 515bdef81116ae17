import pytest
import torch
from torch import nn

from autoseg.network_cost import compute_stage_voxels, count_parameters, list_convolutions, list_heads
from autoseg.networks import build_network
from autoseg.networks.blocks import InstanceNormalization
from autoseg.plan import NETWORK_PLANS

# The last stages are anisotropic: kernels and strides of one along an axis.
SPACE = {
    2: {"kernel_sizes": ((3, 3), (3, 3), (3, 1)), "strides": ((1, 1), (2, 2), (2, 1))},
    3: {"kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 1))},
}
PATCHES = {2: (16, 8), 3: (4, 8, 6)}


@pytest.fixture(
    params=[("plain_unet", 2), ("plain_unet", 3), ("residual_encoder_unet", 2), ("residual_encoder_unet", 3)]
)
def network(request):
    family, dimensions = request.param
    is_plain = family == "plain_unet"
    return NETWORK_PLANS[family].model_validate(
        {
            "dimensions": dimensions,
            "input_channels": 2,
            "output_channels": 3,
            "features_per_stage": (4, 8, 8),
            "blocks_per_stage": (2, 2, 3) if is_plain else (1, 3, 2),
            "convolutions_per_decoder_stage": (2, 1),
            "deep_supervision": True,
            **SPACE[dimensions],
        }
    )


def test_parameters_are_those_of_the_network(network):
    built = build_network(network)
    assert count_parameters(network) == sum(parameter.numel() for parameter in built.parameters())


def test_feature_maps_are_those_that_the_network_computes(network):
    built = build_network(network).eval()
    computed, normalized = [], []
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for module in built.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda _, __, output: computed.append(output.numel()))
        if isinstance(module, InstanceNormalization):
            module.register_forward_hook(lambda _, __, output: normalized.append(output.numel()))
    patch = PATCHES[network.dimensions]
    with torch.no_grad():
        built(torch.zeros(1, 2, *patch))
    layers = list(list_convolutions(network, patch))
    heads = list(list_heads(network, patch))[:-1]  # the lowest is not computed
    assert sorted(layer.output_elements for layer in (*layers, *heads)) == sorted(computed)
    assert sorted(layer.output_elements for layer in layers if layer.is_normalized) == sorted(normalized)


def test_a_stage_has_the_voxels_that_its_strides_leave(network):
    expected = {2: (128, 32, 16), 3: (192, 48, 12)}
    assert compute_stage_voxels(network, PATCHES[network.dimensions]) == expected[network.dimensions]
