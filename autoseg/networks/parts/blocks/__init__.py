"""Blocks, one module each: functions that build a stage of them."""

from collections.abc import Callable
from typing import Final

from torch import nn

from autoseg.networks.parts.blocks.csp_rep import CspRepStage
from autoseg.networks.parts.blocks.dense import DenseStage
from autoseg.networks.parts.blocks.inception import build_inception_stage
from autoseg.networks.parts.blocks.multires import build_multires_stage
from autoseg.networks.parts.blocks.plain import build_plain_stage
from autoseg.networks.parts.blocks.recurrent_residual import build_recurrent_residual_stage
from autoseg.networks.parts.blocks.rep import build_rep_stage
from autoseg.networks.parts.blocks.residual import build_residual_stage
from autoseg.networks.parts.blocks.residual_stage import ResidualStage
from autoseg.networks.parts.blocks.rsu import build_residual_u_stage
from autoseg.networks.parts.blocks.separable import build_separable_stage
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import BlockPlan

BLOCKS: Final[dict[str, Callable[..., nn.Module]]] = {
    "plain": build_plain_stage,
    "residual": build_residual_stage,
    "residual_stage": ResidualStage,
    "recurrent_residual": build_recurrent_residual_stage,
    "multires": build_multires_stage,
    "dense": DenseStage,
    "inception": build_inception_stage,
    "separable": build_separable_stage,
    "rep": build_rep_stage,
    "csp_rep": CspRepStage,
    "rsu": build_residual_u_stage,
}
"""Built from the plans of the same names in `autoseg.plan.network.blocks.BLOCK_PLANS`."""


def build_stage(plan: BlockPlan, site: StageSite) -> nn.Module:
    """Builds the blocks of a stage, from `channels_in` to `channels_out` at the same resolution."""
    return BLOCKS[plan.name](plan, site)
