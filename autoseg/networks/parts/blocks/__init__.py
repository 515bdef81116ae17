"""Blocks, one module each: functions that build a stage of them."""

from collections.abc import Callable
from typing import Final

from torch import nn

from autoseg.networks.parts.blocks.plain import build_plain_stage
from autoseg.networks.parts.blocks.residual import build_residual_stage
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import BlockPlan

BLOCKS: Final[dict[str, Callable[..., nn.Module]]] = {
    "plain": build_plain_stage,
    "residual": build_residual_stage,
}
"""Built from the plans of the same names in `autoseg.plan.network.blocks.BLOCK_PLANS`."""


def build_stage(plan: BlockPlan, site: StageSite) -> nn.Module:
    """Builds the blocks of a stage, from `channels_in` to `channels_out` at the same resolution."""
    return BLOCKS[plan.name](plan, site)
