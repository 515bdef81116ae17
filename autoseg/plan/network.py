"""Which network is trained: its family, and what the family needs to know."""

from typing import Literal

from pydantic import model_validator

from autoseg.document import Part
from autoseg.plan.values import AxisCounts, Count, Counts

Architecture = Literal["plain_unet", "residual_encoder_unet"]


class NetworkPlan(Part):
    """A U-Net. Stage 0 has the full resolution, the last stage is the bottleneck.

    Attributes:
        output_channels: Logit channels.
        features_per_stage: Channels of each stage.
        kernel_sizes: Per stage, one value per axis.
        strides: Per stage, of its first convolution; the first stage has ones.
        blocks_per_stage: Convolutions (plain) or residual blocks (residual encoder) of each encoder stage.
        convolutions_per_decoder_stage: One fewer than there are stages; index 0 is the lowest resolution.
        deep_supervision: Whether training uses the outputs of all but the lowest decoder resolution.
    """

    architecture: Architecture
    dimensions: Literal[2, 3]
    input_channels: Count
    output_channels: Count
    features_per_stage: Counts
    kernel_sizes: tuple[AxisCounts, ...]
    strides: tuple[AxisCounts, ...]
    blocks_per_stage: Counts
    convolutions_per_decoder_stage: tuple[Count, ...]
    deep_supervision: bool

    @model_validator(mode="after")
    def _check(self) -> "NetworkPlan":
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
