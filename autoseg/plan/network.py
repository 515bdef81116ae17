"""Networks: the family of a network and the parameters from which the family builds it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from autoseg.document import Part
from autoseg.plan.values import MOST_STAGES, BlockCounts, ChannelCount, ChannelCounts, KernelExtents

UNetFamily = Literal["plain_unet", "residual_encoder_unet"]
"""Families that are planned by closed formulas."""


class NetworkPlan(Part):
    """A network of any family; abstract. `NETWORK_PLANS` has the families.

    Attributes:
        family: Key of `NETWORK_PLANS`, and of the table of networks that are built from such plans.
        dimensions: Spatial axes of the input.
        input_channels: Image channels, and masks of a previous stage.
        output_channels: Logit channels.
    """

    family: str
    dimensions: Literal[2, 3]
    input_channels: ChannelCount
    output_channels: ChannelCount

    @property
    @abstractmethod
    def patch_divisors(self) -> tuple[int, ...]:
        """The number of voxels per axis of which the extent of every input must be a multiple."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """Describes the parameters of the family in a few words each, by short headings, for a table about the plan."""


class UNetPlan(NetworkPlan):
    """Parameters of all families of U-Nets. Stage 0 has the full resolution, the last stage is the bottleneck.

    Attributes:
        features_per_stage: Channels of each stage.
        kernel_sizes: Per stage, one value per axis.
        strides: Per stage, of its first convolution; the first stage has ones.
        blocks_per_stage: Convolutions (plain) or residual blocks (residual encoder) of each encoder stage.
        convolutions_per_decoder_stage: One fewer than there are stages; index 0 is the lowest resolution.
        deep_supervision: Whether training uses the outputs of all but the lowest decoder resolution.
    """

    features_per_stage: ChannelCounts
    kernel_sizes: Annotated[tuple[KernelExtents, ...], Field(max_length=MOST_STAGES)]
    strides: Annotated[tuple[KernelExtents, ...], Field(max_length=MOST_STAGES)]
    blocks_per_stage: BlockCounts
    convolutions_per_decoder_stage: BlockCounts
    deep_supervision: bool

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """The product of the strides of every axis."""
        return tuple(prod(steps) for steps in zip(*self.strides, strict=True))

    def describe(self) -> Mapping[str, str]:
        """Describes features, strides and kernels of all stages."""
        return {
            "features": " ".join(map(str, self.features_per_stage)),
            "strides": _format_per_axis(self.strides),
            "kernels": _format_per_axis(self.kernel_sizes),
        }

    @model_validator(mode="after")
    def _check(self) -> "UNetPlan":
        stages = len(self.features_per_stage)
        lengths = {
            "kernel_sizes": len(self.kernel_sizes),
            "strides": len(self.strides),
            "blocks_per_stage": len(self.blocks_per_stage),
            "convolutions_per_decoder_stage": len(self.convolutions_per_decoder_stage) + 1,
        }
        for field, length in lengths.items():
            if length != stages:
                msg = f"{field} must describe the {stages} stages of features_per_stage"
                raise ValueError(msg)
        if any(len(entry) != self.dimensions for entry in (*self.kernel_sizes, *self.strides)):
            msg = f"kernel_sizes and strides must have {self.dimensions} values per stage"
            raise ValueError(msg)
        if any(extent % 2 == 0 for entry in self.kernel_sizes for extent in entry):
            msg = "kernel_sizes must be odd, or outputs would not lie on their inputs"
            raise ValueError(msg)
        if any(step != 1 for step in self.strides[0]):
            msg = "strides.0 must be ones: the first stage has the full resolution"
            raise ValueError(msg)
        return self


class PlainUNetPlan(UNetPlan):
    """A U-Net of stacked convolutions."""

    family: Literal["plain_unet"] = "plain_unet"


class ResidualEncoderUNetPlan(UNetPlan):
    """A U-Net whose encoder consists of residual blocks."""

    family: Literal["residual_encoder_unet"] = "residual_encoder_unet"


NETWORK_PLANS: Final[dict[str, type[NetworkPlan]]] = {
    "plain_unet": PlainUNetPlan,
    "residual_encoder_unet": ResidualEncoderUNetPlan,
}


def _format_per_axis(stages: Sequence[Sequence[int]]) -> str:
    return " ".join("x".join(map(str, entry)) for entry in stages)
