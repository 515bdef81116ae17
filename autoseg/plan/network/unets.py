"""The plain U-Net and the residual encoder U-Net of nnU-Net."""

from collections.abc import Mapping
from typing import Literal

from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.values import BlockCounts

UNetFamily = Literal["plain_unet", "residual_encoder_unet"]
"""Families that are planned by closed formulas."""


class UNetPlan(StagedNetworkPlan):
    """Parameters of all families of U-Nets of nnU-Net. The stride of a stage is that of its first convolution.

    Attributes:
        blocks_per_stage: Convolutions (plain) or residual blocks (residual encoder) of each encoder stage.
        convolutions_per_decoder_stage: One fewer than there are stages; index 0 is the lowest resolution.
        deep_supervision: Whether training uses the outputs of all but the lowest decoder resolution.
    """

    blocks_per_stage: BlockCounts
    convolutions_per_decoder_stage: BlockCounts
    deep_supervision: bool

    @property
    def trained_output_count(self) -> int:
        """One for each decoder resolution but the lowest, or one."""
        return max(1, self.stage_count - 2) if self.deep_supervision else 1

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of the blocks."""
        return {
            **super().find_lengths(),
            "blocks_per_stage": len(self.blocks_per_stage),
            "convolutions_per_decoder_stage": len(self.convolutions_per_decoder_stage) + 1,
        }


class PlainUNetPlan(UNetPlan):
    """A U-Net of stacked convolutions."""

    family: Literal["plain_unet"] = "plain_unet"


class ResidualEncoderUNetPlan(UNetPlan):
    """A U-Net whose encoder consists of residual blocks."""

    family: Literal["residual_encoder_unet"] = "residual_encoder_unet"
