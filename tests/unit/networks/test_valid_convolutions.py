"""Shapes of U-shaped networks without padding, and the place of their output in the input."""

import pytest
import torch
from torch import nn

from autoseg.networks import build_network
from planners import ARCHITECTURES

PUBLISHED = ARCHITECTURES["u_net_valid"].published[0].plan
META = torch.device("meta")
FOUR_STAGES = {
    "input_channels": 1,
    "output_channels": 1,
    "features_per_stage": (2, 4, 4, 4),
    "decoder_features_per_stage": (4, 4, 2),
    "blocks_per_stage": (2,) * 4,
    "decoder_blocks_per_stage": (2,) * 3,
    "kernel_sizes": ((3, 3, 3),) * 4,
    "strides": ((1, 1, 1), *((2, 2, 2),) * 3),
}


def compute_shape(plan, extents):
    with META:
        network = build_network(plan)
        (logits,) = network(torch.empty((1, plan.input_channels, *extents)))
    return tuple(logits.shape[2:])


def test_a_network_without_padding_has_the_published_extents(make_plan):
    assert compute_shape(PUBLISHED, (572, 572)) == (388, 388)
    volume = make_plan("valid convolutions", 3, **FOUR_STAGES)
    assert compute_shape(volume, (132, 132, 116)) == (44, 44, 28)


@pytest.mark.parametrize(
    ("dimensions", "changes"),
    [
        (2, {}),
        (3, {}),
        (3, FOUR_STAGES),
        (2, {"strides": ((1, 1), (3, 2), (5, 2)), "kernel_sizes": ((5, 3), (3, 1), (3, 7))}),
        (3, {"blocks_per_stage": (1, 3, 1), "downsampling": "strided", "upsampling": "transposed_wide"}),
        (2, {"skip": {"name": "addition"}, "downsampling": "average_pool"}),
    ],
)
def test_every_allowed_input_is_larger_than_the_output_by_the_margins(make_plan, dimensions, changes):
    plan = make_plan("valid convolutions", dimensions, **changes)
    margins, divisors = plan.margin_voxels, plan.patch_divisors
    for more in (1, 2, 5):
        extents = [
            (-(-2 * margin // divisor) + more) * divisor for margin, divisor in zip(margins, divisors, strict=True)
        ]
        inside = tuple(extent - 2 * margin for extent, margin in zip(extents, margins, strict=True))
        assert compute_shape(plan, extents) == inside


@torch.no_grad()
def test_the_output_lies_in_the_middle_of_the_input(make_plan):
    """With kernels that equal their mirror image, a mirrored image gives mirrored logits."""
    changes = {"strides": ((1, 1), (2, 3), (2, 2)), "kernel_sizes": ((3, 3), (3, 5), (3, 1))}
    plan = make_plan("valid convolutions", 2, **changes)
    network = build_network(plan, torch.Generator().manual_seed(0)).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight += module.weight.flip(-1)
            module.weight += module.weight.flip(-2)
    image = torch.randn((1, 2, 60, 66), generator=torch.Generator().manual_seed(1))
    for axes in ((-1,), (-2,)):
        mirrored = network(image.flip(axes))[0].flip(axes)
        torch.testing.assert_close(mirrored, network(image)[0], atol=1e-4, rtol=1e-4)
