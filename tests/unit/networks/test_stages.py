"""Laws of single blocks of U-shaped networks."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from autoseg.networks.blocks import CONVOLUTIONS
from autoseg.networks.cost import measure_module_cost
from autoseg.networks.parts.blocks import build_stage
from autoseg.networks.parts.blocks.recurrent_residual import RecurrentConvolution
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import (
    DensePlan,
    InceptionPlan,
    MultiResPlan,
    PlainBlockPlan,
    RecurrentResidualPlan,
    ResidualStagePlan,
    ResidualUPlan,
    SeparablePlan,
)
from autoseg.plan.network.layers import LayerPlan

SITE = StageSite(
    channels_in=8,
    channels_out=8,
    block_count=1,
    kernel=(3, 3),
    strides_below=((2, 2), (2, 1), (1, 2)),
    layers=LayerPlan(normalization="instance", activation="relu"),
    is_encoder=True,
)
CONVOLUTION_KINDS = (nn.Conv2d, nn.Conv3d)


def draw_features(site: StageSite) -> torch.Tensor:
    extents = (8,) * site.dimensions
    return torch.randn(2, site.channels_in, *extents, generator=torch.Generator().manual_seed(0))


def list_convolutions(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, CONVOLUTION_KINDS)]


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("block_count", [1, 3])
def test_one_shortcut_spans_all_convolutions_of_a_residual_stage(block_count: int) -> None:
    site = replace(SITE, block_count=block_count)
    stage, features = build_stage(ResidualStagePlan(), site), draw_features(site)
    last = stage.convolutions[-1].norm
    nn.init.zeros_(last.weight)
    assert len(list_convolutions(stage)) == block_count
    torch.testing.assert_close(stage(features), features.relu())


@pytest.mark.parametrize("channels_in", [8, 3])
def test_without_recurrences_a_recurrent_block_is_a_residual_one(channels_in: int) -> None:
    site = replace(SITE, channels_in=channels_in)
    stage, features = build_stage(RecurrentResidualPlan(recurrences=0), site), draw_features(site)
    (block,) = stage
    first, second = (convolution.layer for convolution in block.convolutions)
    projected = block.projection(features)
    torch.testing.assert_close(stage(features), projected + second(first(projected)), rtol=1e-6, atol=1e-6)


def test_recurrences_apply_the_same_weights_to_the_sum_of_input_and_result() -> None:
    features = draw_features(SITE)
    convolution = RecurrentConvolution(RecurrentResidualPlan(recurrences=2), SITE)
    once = convolution.layer(features)
    twice = convolution.layer(features + once)
    torch.testing.assert_close(convolution(features), convolution.layer(features + twice))
    counts = {count_parameters(build_stage(RecurrentResidualPlan(recurrences=count), SITE)) for count in (0, 1, 5)}
    assert len(counts) == 1


def test_a_multires_block_splits_its_width_as_published() -> None:
    plan = MultiResPlan(width=1.67)
    assert plan.split(32) == (8, 17, 26)
    assert plan.count_channels(32) == 51
    assert min(plan.split(1)) == 1
    site = replace(SITE, channels_out=32, block_count=2)
    assert build_stage(plan, site)(draw_features(site)).shape[1] == 51


def test_every_convolution_of_a_dense_stage_sees_all_results_before_it() -> None:
    stage = build_stage(DensePlan(growth=0.5), replace(SITE, channels_in=3, block_count=4))
    seen = [convolution.in_channels for convolution in list_convolutions(stage)]
    assert seen == [3, 7, 11, 15, 19]
    assert [convolution.out_channels for convolution in list_convolutions(stage)] == [4, 4, 4, 4, 8]


@pytest.mark.parametrize("channels_out", [1, 3, 8, 10])
def test_the_branches_of_an_inception_block_have_all_channels_together(channels_out: int) -> None:
    site = replace(SITE, channels_out=channels_out)
    stage = build_stage(InceptionPlan(), site)
    assert stage(draw_features(site)).shape == (2, channels_out, 8, 8)
    assert len(stage[0].branches) == min(4, channels_out)


def test_an_inception_block_has_kernels_of_one_three_and_five_voxels() -> None:
    stage = build_stage(InceptionPlan(), replace(SITE, kernel=(1, 3)))
    assert {convolution.kernel_size for convolution in list_convolutions(stage)} == {(1, 1), (1, 3), (1, 5)}


@pytest.mark.parametrize(("kernel", "ratio"), [((3, 3), 1 / 64 + 1 / 9), ((3, 3, 3), 1 / 64 + 1 / 27)])
def test_separable_convolutions_multiply_as_seldom_as_published(kernel: tuple[int, ...], ratio: float) -> None:
    site = replace(SITE, kernel=kernel, channels_in=64, channels_out=64)
    with torch.device("meta"):
        image = torch.empty(1, 64, *(8,) * len(kernel))
        separable, plain = (
            measure_module_cost(build_stage(plan, site), image).multiply_adds
            for plan in (SeparablePlan(), PlainBlockPlan())
        )
    assert separable / plain == pytest.approx(ratio)


def test_an_image_of_few_channels_meets_whole_convolutions() -> None:
    groups = [part.groups for part in list_convolutions(build_stage(SeparablePlan(), replace(SITE, channels_in=1)))]
    assert groups == [1]


def test_a_residual_u_block_halves_as_often_as_the_network_does_below() -> None:
    plan = ResidualUPlan(reduction=4, dilated_reduction=2)
    site = replace(SITE, channels_in=3)
    nested = build_stage(plan, site)[0].nested
    assert [pooling.kernel_size for pooling in nested.poolings if isinstance(pooling, nn.MaxPool2d)] == [
        (2, 2),
        (2, 1),
        (1, 2),
    ]
    convolutions = [layer.convolution for layer in nested.descent]
    assert [convolution.dilation for convolution in convolutions] == [(1, 1)] * 4 + [(2, 2)]
    assert {convolution.out_channels for convolution in convolutions} == {2}
    assert build_stage(plan, site)(draw_features(site)).shape == (2, 8, 8, 8)


@pytest.mark.parametrize("strides_below", [(), ((2, 2),)])
def test_a_residual_u_block_is_dilated_where_fewer_than_two_halvings_are_left(strides_below) -> None:
    stage = build_stage(ResidualUPlan(reduction=4, dilated_reduction=2), replace(SITE, strides_below=strides_below))
    nested = stage[0].nested
    assert [layer.convolution.dilation[0] for layer in nested.descent] == [1, 2, 4, 8]
    assert [layer.convolution.dilation[0] for layer in nested.ascent] == [1, 2, 4]
    assert {layer.convolution.out_channels for layer in nested.descent} == {4}
    assert not any(isinstance(part, nn.MaxPool2d) for part in nested.modules())


def test_dilation_leaves_axes_alone_whose_kernels_have_one_voxel() -> None:
    site = replace(SITE, kernel=(1, 3, 3), strides_below=())
    stage = build_stage(ResidualUPlan(reduction=2, dilated_reduction=2), site)
    features = draw_features(site)
    assert stage(features).shape == features.shape
    assert isinstance(stage[0].nested.descent[-1].convolution, CONVOLUTIONS[3])
