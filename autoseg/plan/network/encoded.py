"""What the plans of networks have in common whose encoder is a sequence of stages of any block."""

from collections.abc import Mapping
from typing import Annotated

from autoseg.document import OneOf
from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.network.blocks import BLOCK_PLANS, BlockPlan
from autoseg.plan.network.layers import Downsampling, LayerPlan
from autoseg.plan.values import BlockCounts


class EncodedPlan(StagedNetworkPlan):
    """A network with an encoder of stages of blocks; abstract.

    Attributes:
        blocks_per_stage: Blocks of each stage.
        block: The blocks.
        layers: Normalization and activation.
        downsampling: "strided": a convolution whose kernel is its stride, with normalization and activation.
    """

    blocks_per_stage: BlockCounts
    block: Annotated[BlockPlan, OneOf(BLOCK_PLANS, "name")]
    layers: LayerPlan
    downsampling: Downsampling

    def describe(self) -> Mapping[str, str]:
        """Describes the stages and what they are made of."""
        layers = f"{self.layers.normalization} {self.layers.activation}"
        return {**super().describe(), "blocks": self.block.name, "layers": layers}

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of the blocks."""
        return {**super().find_lengths(), "blocks_per_stage": len(self.blocks_per_stage)}
