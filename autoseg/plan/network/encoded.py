"""The common part of the plans of networks whose encoder is a sequence of stages of any block."""

from abc import abstractmethod
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

    @property
    def encoded_channels(self) -> tuple[int, ...]:
        """Channels after the blocks of each stage."""
        return tuple(self.block.count_channels(features) for features in self.features_per_stage)

    def describe(self) -> Mapping[str, str]:
        """Describes the stages and what they are made of."""
        parts = (self.block.name, *self.list_further_parts(), self.layers.normalization, self.layers.activation)
        return {**super().describe(), "parts": ", ".join(parts)}

    @abstractmethod
    def list_further_parts(self) -> tuple[str, ...]:
        """Lists in a few words each what else the network is made of."""

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of the blocks."""
        return {**super().find_lengths(), "blocks_per_stage": len(self.blocks_per_stage)}
