"""The interface of a context module."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.plan.network.layers import LayerPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSite:
    """The place of a context module.

    Attributes:
        channels: Channels of its input.
        kernel: Extents of the kernels of the stage.
        layers: Normalization and activation.
    """

    channels: int
    kernel: tuple[int, ...]
    layers: LayerPlan

    @property
    def dimensions(self) -> int:
        """Spatial axes."""
        return len(self.kernel)


class Context(nn.Module, ABC):
    """Widens the context of features, at their resolution.

    Attributes:
        channels_out: Channels of the result; those of the input unless a module sets others.
    """

    channels_out: int

    def __init__(self, site: ContextSite) -> None:
        super().__init__()
        self.channels_out = site.channels

    @abstractmethod
    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Computes features of the same extents."""
