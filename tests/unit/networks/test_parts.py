"""What holds for the parts of U-shaped networks, beside the laws of all networks."""

from collections.abc import Mapping

import pytest
from builders.networks import ATTENTIONS, BLOCKS, CONTEXTS, SKIPS

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
