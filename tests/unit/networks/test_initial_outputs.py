"""A new network may begin with the probabilities of its classes."""

import pytest
import torch
from builders.networks import SMALL_NETWORKS, build_small_network_plan

from autoseg.networks import build_network
from autoseg.networks.initialization import initialize_outputs

PROBABILITIES = (0.9, 0.07, 0.03)
WITHOUT_OUTPUT_LAYERS = {
    *("fcn", "fcn without fusion", "fused outputs", "shape stream of fused outputs", "hybrid_2d_3d"),
    *("label_autoencoder", "label_autoencoder of Stable Diffusion", "latent_diffusion"),
    "diffusion_unet of noise with guidance",
    *("detector", "detector of regions", "mask_rcnn"),
}
"""Networks that add or fuse the logits of several layers, whose last layer was trained with the labels alone, or that
draw boxes or objects."""


@pytest.mark.parametrize("name", SMALL_NETWORKS)
@torch.inference_mode()
def test_every_output_begins_with_the_probabilities_of_the_classes(name: str) -> None:
    dimensions = 3 if name.startswith("hybrid") else 2
    network = build_network(build_small_network_plan(name, dimensions), torch.Generator().manual_seed(0)).eval()
    layers = network.output_layers
    assert (layers is None) == (name in WITHOUT_OUTPUT_LAYERS)
    if layers is None:
        return
    initialize_outputs(layers, PROBABILITIES, has_regions=False)
    for layer in layers:  # so that features have no influence
        layer.get_parameter("weight").zero_()
    extents = [4 * divisor for divisor in network.plan.patch_divisors]
    extents = [extent + 2 * margin for extent, margin in zip(extents, network.plan.margin_voxels, strict=True)]
    outputs = network(torch.zeros(1, network.plan.input_channels, *extents))
    assert len(outputs) == len(network.output_weights)
    for logits, target in zip(outputs, network.output_targets, strict=True):
        if target == "edges":
            continue
        expected = torch.tensor(PROBABILITIES).reshape(1, 3, 1, 1).expand_as(logits)
        torch.testing.assert_close(logits.softmax(1), expected)


@torch.inference_mode()
def test_regions_begin_with_the_probabilities_that_a_sigmoid_returns(make_plan) -> None:
    network = build_network(make_plan(output_channels=2))
    assert network.output_layers is not None
    initialize_outputs(network.output_layers, (0.2, 0.01), has_regions=True)
    for layer in network.output_layers:
        torch.testing.assert_close(layer.get_parameter("bias").sigmoid(), torch.tensor([0.2, 0.01]))
