"""Stages of an encoder of any block."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.blocks import build_stage
from autoseg.networks.parts.resampling import build_downsampling
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.encoded import EncodedPlan


class EncoderStage(nn.Module):
    """The step to the resolution of a stage, then its blocks.

    Attributes:
        channels_downsampled: Channels of what the blocks read.
    """

    def __init__(self, plan: EncodedPlan, stage: int) -> None:
        super().__init__()
        channels_in, features = (plan.input_channels, *plan.encoded_channels)[stage], plan.features_per_stage[stage]
        self.downsampling = build_downsampling(
            plan.downsampling, channels_in, plan.strides[stage], plan.layers, channels_out=features
        )
        if plan.downsampling == "strided_wide" and math.prod(plan.strides[stage]) > 1:
            channels_in = features
        self.channels_downsampled = channels_in
        self.blocks = build_stage(plan.block, describe_stage(plan, stage, channels_in=channels_in, is_encoder=True))

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Computes the features of the stage from those of the stage above."""
        computed: Tensor = self.blocks(self.downsampling(features))
        return computed


def describe_stage(plan: EncodedPlan, stage: int, *, channels_in: int, is_encoder: bool) -> StageSite:
    """Describes the place of blocks at the resolution of a stage, which compute its features from `channels_in`."""
    return StageSite(
        channels_in=channels_in,
        channels_out=plan.features_per_stage[stage],
        block_count=plan.blocks_per_stage[stage],
        kernel=plan.kernel_sizes[stage],
        strides_below=plan.strides[stage + 1 :],
        layers=plan.layers,
        is_encoder=is_encoder,
    )
