"""Stages of an encoder of any block."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.parts.blocks import build_stage
from autoseg.networks.parts.resampling import LINEAR, build_downsampling
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.encoded import EncodedPlan


class EncoderStage(nn.Module):
    """The step to the resolution of a stage, then its blocks."""

    def __init__(self, plan: EncodedPlan, stage: int) -> None:
        super().__init__()
        channels_in, features = (plan.input_channels, *plan.features_per_stage)[stage : stage + 2]
        self.downsampling = build_downsampling(
            plan.downsampling, channels_in, plan.strides[stage], plan.layers, channels_out=features
        )
        if plan.downsampling == "strided_wide" and math.prod(plan.strides[stage]) > 1:
            channels_in = features
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


def enlarge_to(features: Float[Tensor, "batch channel *space"], extents: Sequence[int]) -> Tensor:
    """Interpolates linearly to the given extents."""
    if features.shape[2:] == torch.Size(extents):
        return features
    return functional.interpolate(features, size=tuple(extents), mode=LINEAR[len(extents)])
