"""A stage of blocks: the interface of everything in `autoseg.networks.parts.blocks`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import nn

from autoseg.plan.network.layers import LayerPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSite:
    """The place of a stage in a network.

    Attributes:
        channels_in: Channels of its input.
        channels_out: Channels of its output, whose extents are those of the input, unless `BlockPlan.count_channels`
            says otherwise.
        block_count: Blocks, one after the other.
        kernel: Extents of the kernels.
        strides_below: Strides of the further stages of the encoder, from here down to the bottleneck.
        layers: Normalization and activation.
        is_encoder: Whether the stage is one of the encoder.
        is_padded: Whether convolutions keep the extents; not where `BlockPlan.count_convolutions` counts them.
    """

    channels_in: int
    channels_out: int
    block_count: int
    kernel: tuple[int, ...]
    strides_below: tuple[tuple[int, ...], ...]
    layers: LayerPlan
    is_encoder: bool
    is_padded: bool = True

    @property
    def dimensions(self) -> int:
        """Spatial axes."""
        return len(self.kernel)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels before and after every block."""
        return (self.channels_in, *(self.channels_out,) * self.block_count)


BuildBlock = Callable[[StageSite], nn.Module]


def stack_blocks(site: StageSite, build_block: BuildBlock) -> nn.Module:
    """Stacks blocks that change the number of channels in the first of them.

    Args:
        site: The place of the stage.
        build_block: Builds one block for a stage of one block.
    """
    return nn.Sequential(
        *(
            build_block(replace(site, channels_in=below, channels_out=above, block_count=1))
            for below, above in pairwise(site.channels)
        )
    )
