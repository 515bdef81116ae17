"""What holds for the parts of U-shaped networks, beside the laws of all networks."""

from collections.abc import Mapping

import pytest
import torch
from builders.networks import ATTENTIONS, BLOCKS, CONTEXTS, SKIPS, build_small_network_plan

from autoseg.networks import build_network
from autoseg.networks.parts import attentions, blocks, contexts, skips
from autoseg.plan.network.attentions import ATTENTION_PLANS
from autoseg.plan.network.blocks import BLOCK_PLANS
from autoseg.plan.network.contexts import CONTEXT_PLANS
from autoseg.plan.network.skips import SKIP_PLANS


@pytest.mark.parametrize(
    ("plans", "parts", "tried"),
    [
        (ATTENTION_PLANS, attentions.ATTENTIONS, ATTENTIONS),
        (BLOCK_PLANS, blocks.BLOCKS, BLOCKS),
        (CONTEXT_PLANS, contexts.CONTEXTS, CONTEXTS),
        (SKIP_PLANS, skips.SKIPS, SKIPS),
    ],
    ids=["attentions", "blocks", "contexts", "skips"],
)
def test_every_planned_part_is_built_and_tried_in_a_network(
    plans: Mapping[str, object], parts: Mapping[str, object], tried: Mapping[str, object]
) -> None:
    assert parts
    assert set(plans) == set(parts) == set(tried)


@pytest.mark.parametrize("skip", SKIPS)
def test_every_skip_connection_joins_unlike_numbers_of_channels(skip: str) -> None:
    """The channels after a multires block, and those that linear upsampling leaves, are not those of the plan."""
    plan = build_small_network_plan("block multires", 2, skip={"name": skip, **SKIPS[skip]}, upsampling="linear")
    with torch.device("meta"):
        network = build_network(plan)
        logits = network(torch.empty(1, plan.input_channels, 16, 16))[0]
    assert logits.shape == (1, plan.output_channels, 16, 16)


@pytest.mark.parametrize("family", ["nested_u", "fcn"])
@pytest.mark.parametrize("downsampling", ["max_pool", "strided_wide"])
def test_every_skeleton_takes_blocks_with_more_channels_than_the_plan_has_features(
    family: str, downsampling: str
) -> None:
    plan = build_small_network_plan(family, 2, block={"name": "multires", "width": 3.0}, downsampling=downsampling)
    with torch.device("meta"):
        network = build_network(plan)
        logits = network(torch.empty(1, plan.input_channels, 16, 16))[0]
    assert logits.shape == (1, plan.output_channels, 16, 16)
