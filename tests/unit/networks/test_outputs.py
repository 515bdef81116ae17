"""How many outputs a network has, of which shape, and which weights are trained."""

import pytest
import torch

from autoseg.networks import build_network

UNETS = ["plain_unet", "residual_encoder_unet"]


def cut_stages(stages: int) -> dict[str, object]:
    return {
        "features_per_stage": (4, 8, 8, 8)[:stages],
        "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))[:stages],
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 1), (2, 2, 2))[:stages],
        "blocks_per_stage": (1, 2, 1, 2)[:stages],
        "convolutions_per_decoder_stage": (1, 1, 1)[: stages - 1],
    }


@pytest.mark.parametrize("family", UNETS)
@pytest.mark.parametrize(
    ("stages", "spaces"),
    [
        (1, [(8, 16, 16)]),
        (2, [(8, 16, 16)]),
        (3, [(8, 16, 16)]),
        (4, [(8, 16, 16), (8, 8, 8)]),
    ],
)
def test_deep_supervision_gives_all_levels_but_the_lowest_highest_resolution_first(
    make_plan, family: str, stages: int, spaces: list[tuple[int, ...]]
) -> None:
    network = build_network(make_plan(family, **cut_stages(stages)))
    logits = network(torch.zeros(2, 2, 8, 16, 16))
    assert [tuple(level.shape) for level in logits] == [(2, 3, *space) for space in spaces]
    assert len(logits) == len(network.output_weights)


def test_weights_of_the_outputs_halve_and_sum_to_one(make_plan) -> None:
    plan = make_plan(
        features_per_stage=(4, 8, 8, 8, 8),
        kernel_sizes=((3, 3, 3),) * 5,
        strides=((1, 1, 1), *((2, 2, 2),) * 4),
        blocks_per_stage=(1,) * 5,
        convolutions_per_decoder_stage=(1,) * 4,
    )
    network = build_network(plan)
    assert network.output_weights == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    network.set_deep_supervision(enabled=False)
    assert network.output_weights == (1.0,)


@pytest.mark.parametrize("family", UNETS)
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_exactly_the_weights_that_require_a_gradient_receive_one(
    make_plan, family: str, *, deep_supervision: bool
) -> None:
    network = build_network(make_plan(family, **cut_stages(4), deep_supervision=deep_supervision))
    sum(level.square().sum() for level in network(torch.randn(1, 2, 8, 16, 16))).backward()
    received = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert received == {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    unused = {"heads.2"} if deep_supervision else {"heads.1", "heads.2"}
    everything = {name for name, _ in network.named_parameters()}
    assert {name.rpartition(".")[0] for name in everything - received} == unused


def test_every_level_has_a_head_so_that_weights_of_nnunet_fit(make_plan) -> None:
    network = build_network(make_plan(**cut_stages(4), deep_supervision=False))
    assert [head.weight.shape[1] for head in network.heads] == [4, 8, 8]
