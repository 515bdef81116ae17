"""The interface of an encoder of the literature."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.plan.network.encoder_u import EncoderOfLiteraturePlan


class Encoder(nn.Module, ABC):
    """Computes features of every resolution.

    Attributes:
        first_skip: First stage whose features a decoder reads.
        stages: One module per stage.
        channels: Channels of the features of every stage.
    """

    first_skip: ClassVar[int] = 0
    stages: nn.ModuleList
    channels: tuple[int, ...]

    def __init__(self, plan: EncoderOfLiteraturePlan) -> None:
        super().__init__()
        self.plan = plan

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> list[Tensor]:
        """Computes the features of every stage, the highest resolution first."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features

    @abstractmethod
    def find_published_name(self, name: str) -> str:
        """Finds the name that torchvision gives to a tensor of the `state_dict`."""

    @abstractmethod
    def is_left_out(self, published: str) -> bool:
        """Returns whether a name of torchvision is that of a classifier, or of a stage that the plan leaves out."""
