"""Networks whose decoder has one level per resolution, and can stop before the full one."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.network import SegmentationNetwork


class LevelNetwork(SegmentationNetwork):
    """A network with a decoder of levels, numbered like the stages of the encoder: level 0 has the full resolution.

    Attributes:
        levels: The decoder; there is none for the last stage.
        heads: Modules that compute logits from the features of the levels.
        finest_level: Level at which the decoder stops.
    """

    levels: nn.ModuleList
    heads: nn.ModuleList
    finest_level: int = 0

    @property
    @abstractmethod
    def level_channels(self) -> tuple[int, ...]:
        """Channels of the features of every level, the bottleneck's last."""

    @property
    @abstractmethod
    def fine_channels(self) -> int:
        """Channels of the features of the encoder's first stage."""

    @abstractmethod
    def compute_levels(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Tensor, list[Tensor]]:
        """Computes the features of the encoder's first stage, and of all levels from `finest_level` to the bottleneck.

        Args:
            image: Its extents are multiples of `NetworkPlan.patch_divisors`.
        """

    def stop_decoder(self, level: int) -> None:
        """Takes away all finer levels, and all heads; those that are left keep the names of their weights."""
        self.finest_level = level
        for finer in range(level):
            self.levels[finer] = nn.Identity()
        self.heads = nn.ModuleList()
