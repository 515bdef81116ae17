"""The interface of a skip connection."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.network.skips import SkipPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipSite:
    """The place of a skip connection in a network.

    Attributes:
        level: Stage of the encoder from which it comes; 0 has the full resolution.
        level_count: Number of skip connections in the network.
        channels: Channels of the encoder's features.
        channels_below: Channels of the features of the resolution below.
        channels_upsampled: Channels of these after upsampling.
        stride: Ratio of this resolution and the one below.
        kernel: Extents of the kernels of this stage.
        layers: Normalization and activation.
    """

    level: int
    level_count: int
    channels: int
    channels_below: int
    channels_upsampled: int
    stride: tuple[int, ...]
    kernel: tuple[int, ...]
    layers: LayerPlan

    @property
    def dimensions(self) -> int:
        """Spatial axes."""
        return len(self.stride)


class Skip(nn.Module, ABC):
    """Joins features of the encoder and of the decoder.

    Attributes:
        channels_out: Channels of the result.
    """

    channels_out: int

    def __init__(self, plan: SkipPlan, site: SkipSite) -> None:
        super().__init__()
        self.plan = plan
        self.channels_out = self.count_channels(site)

    def count_channels(self, site: SkipSite) -> int:
        """Counts the channels of the result: those of both."""
        return site.channels + site.channels_upsampled

    @abstractmethod
    def forward(
        self,
        encoded: Float[Tensor, "batch channels *space"],
        upsampled: Float[Tensor, "batch channels_upsampled *space"],
        below: Float[Tensor, "batch channels_below *space_below"],
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Joins.

        Args:
            encoded: Features of the encoder.
            upsampled: Features from the resolution below, at that of `encoded`.
            below: The same before upsampling.
        """
