"""What holds for dilated networks, beside the laws of all networks."""

import pytest
import torch
from torch import nn

from autoseg.networks import build_network
from autoseg.networks.families.dilated import DilatedNetwork
from autoseg.networks.parts.contexts.dual_attention import LearntScale


def build(plan) -> DilatedNetwork:
    network = build_network(plan, torch.Generator().manual_seed(0))
    assert isinstance(network, DilatedNetwork)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_dilated_network_computes_what_the_strided_one_does_at_every_voxel_of_it(make_plan, block: str) -> None:
    """So both have the same receptive field."""
    strided, dilated = (
        build(
            make_plan(
                "dilated",
                2,
                block=block,
                output_stride=stride,
                features_per_stage=(4, 8, 12),
                kernel_sizes=((3, 3),) * 3,
                strides=((1, 1), (2, 2), (2, 1)),
                stem_strides=((2, 2),),
                stem_kernel_sizes=((3, 3),),
            )
        )
        for stride in (8, 2)
    )
    dilated.load_state_dict(strided.state_dict())
    image = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    coarse, fine = (network.compute_features(image)[-1] for network in (strided, dilated))
    assert (coarse.shape[2:], fine.shape[2:]) == ((4, 8), (16, 16))
    torch.testing.assert_close(fine[..., ::4, ::2], coarse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("output_stride", "divisors", "steps"),
    [
        (99, (16, 16), (((1, 1), (1, 1)), ((2, 2), (1, 1)), ((2, 1), (1, 1)))),
        (8, (8, 8), (((1, 1), (1, 1)), ((2, 1), (1, 2)), ((1, 1), (2, 2)))),
        (2, (4, 8), (((1, 1), (1, 1)), ((1, 1), (2, 2)), ((1, 1), (4, 2)))),
    ],
)
def test_strides_beyond_the_output_stride_become_dilations_of_their_axis(
    make_plan, output_stride: int, divisors: tuple[int, ...], steps: tuple[object, ...]
) -> None:
    plan = make_plan(
        "dilated",
        2,
        output_stride=output_stride,
        strides=((1, 1), (2, 2), (2, 1)),
        stem_strides=((2, 2), (2, 4)),
    )
    assert plan.steps == steps
    assert plan.patch_divisors == divisors


@torch.no_grad()
def test_outputs_of_dual_attention_are_those_of_the_sum_of_positions_and_of_channels(make_plan) -> None:
    network, image = build(make_plan("dilated with dual attention", 2)), torch.randn(1, 2, 16, 16)
    assert network.output_weights == (1 / 3,) * 3
    for classifier in network.head.classifiers:
        classifier.load_state_dict(network.head.classifiers[0].state_dict())
    bias = network.head.classifiers[0].get_parameter("bias")
    total, positions, channels = (output - bias.view(1, -1, 1, 1) for output in network(image))
    torch.testing.assert_close(total, positions + channels, rtol=1e-4, atol=1e-5)
    assert not torch.equal(positions, channels)


@torch.no_grad()
def test_the_head_of_low_level_features_reads_the_first_and_the_last_stage(make_plan) -> None:
    network = build(make_plan("dilated", 2))
    stages = network.compute_features(torch.randn(1, 2, 16, 16))
    (given,) = network.head(stages, 1)
    assert given.shape[2:] == stages[0].shape[2:]
    for changed in (0, -1):
        other = list(stages)
        other[changed] = other[changed] + 1
        assert not torch.equal(network.head(other, 1)[0], given)


def test_the_attentions_of_a_head_start_as_the_identity(make_plan) -> None:
    network = build(make_plan("dilated with dual attention", 2))
    scales = [module for module in network.modules() if isinstance(module, LearntScale)]
    assert len(scales) == 2
    assert all(scale.factor == 0 for scale in scales)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dilated", {"output_weights": (1.0, 1.0)}, "output_weights must hold 1 or 1 weights"),
        ("dilated with dual attention", {"output_weights": (1.0, 1.0)}, "output_weights must hold 1 or 3 weights"),
        ("dilated", {"blocks_per_stage": (1, 1)}, "blocks_per_stage must describe the 3 stages"),
        ("dilated", {"stem_strides": ((2, 2),)}, "stem_kernel_sizes must describe the 1 layers of stem_strides"),
        ("dilated", {"stem_strides": ((2,), (2,))}, "stem_strides"),
        ("dilated", {"stem_strides": ((2, 2, 2), (2, 2, 2))}, "must have 2 values per layer"),
        ("dilated", {"stem_kernel_sizes": ((2, 2), (3, 3))}, "stem_kernel_sizes must be odd"),
    ],
)
def test_a_plan_that_cannot_be_built_is_refused(make_plan, name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(name, 2, **changes)


def test_a_single_output_of_dual_attention_has_one_classifier(make_plan) -> None:
    network = build(make_plan("dilated with dual attention", 2, output_weights=(1.0,)))
    assert isinstance(network.head.classifiers, nn.ModuleList)
    assert len(network.head.classifiers) == len(network(torch.randn(1, 2, 16, 16))) == 1
