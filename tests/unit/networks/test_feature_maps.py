"""The planner's estimate of feature maps is the count on the meta device.

The expected numbers are those of the reference planner's estimate. Its closed form adds up, per stage, the outputs of
the convolutions (and of a residual block's shortcut, where that changes channels or resolution), per decoder level the
outputs of the transposed and the other convolutions, and the logits of the full resolution.
"""

import pytest
import torch
from builders.plans import build_network_plan
from torch import nn

from autoseg.networks import build_network
from autoseg.networks.blocks import Shortcut
from autoseg.plan import NetworkPlan

COUNTED = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FEATURES_3D = (32, 64, 128, 256, 320, 320)
FEATURES_2D = (32, 64, 128, 256, 512, 512, 512)


def build_isotropic_plan(features: tuple[int, ...], *, dimensions: int, residual: bool, deep: bool) -> NetworkPlan:
    stages = len(features)
    return build_network_plan(
        dimensions,
        family="residual_encoder_unet" if residual else "plain_unet",
        features_per_stage=features,
        blocks_per_stage=(1, 3, 4, 6, 6, 6, 6)[:stages] if residual else (2,) * stages,
        convolutions_per_decoder_stage=((1 if residual else 2),) * (stages - 1),
        deep_supervision=deep,
    )


def count_feature_map_elements(plan: NetworkPlan, edge_voxels: int) -> int:
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if not isinstance(module, Shortcut) or output is not inputs[0]:
            counts.append(output.numel())

    with torch.device("meta"):
        network = build_network(plan)
        for name, module in network.named_modules():
            if isinstance(module, Shortcut) or (isinstance(module, COUNTED) and ".shortcut." not in name):
                module.register_forward_hook(count)
        network(torch.empty((1, plan.input_channels, *(edge_voxels,) * plan.dimensions)))
    return sum(counts)


@pytest.mark.parametrize(
    ("features", "edge_voxels", "residual", "expected"),
    [
        (FEATURES_3D, 128, False, 452_796_416),
        (FEATURES_3D, 128, True, 557_420_544),
        (FEATURES_2D, 512, True, 129_531_904),
    ],
)
def test_a_forward_pass_has_as_many_feature_map_elements_as_the_closed_form(
    features: tuple[int, ...], edge_voxels: int, *, residual: bool, expected: int
) -> None:
    dimensions = 3 if features is FEATURES_3D else 2
    plan = build_isotropic_plan(features, dimensions=dimensions, residual=residual, deep=False)
    assert count_feature_map_elements(plan, edge_voxels) == expected


def test_deep_supervision_adds_the_logits_of_all_levels_but_the_lowest() -> None:
    plan = build_isotropic_plan(FEATURES_3D, dimensions=3, residual=True, deep=True)
    further_logits = 3 * (64**3 + 32**3 + 16**3)
    assert count_feature_map_elements(plan, 128) == 557_420_544 + further_logits
