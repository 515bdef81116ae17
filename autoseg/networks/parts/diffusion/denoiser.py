"""The U-Net that estimates noise, or data without noise (Ho et al. 2020, arXiv:2006.11239)."""

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autoseg.networks.blocks import POOLINGS, Enlargement
from autoseg.networks.parts.diffusion.denoising_blocks import (
    DenoisingBlock,
    MiddleBlocks,
    VoxelAttention,
    build_enlargement,
    build_group_norm,
    build_reduction,
    embed_steps,
)
from autoseg.networks.parts.layers import build_kernel
from autoseg.plan.network.latent_diffusion import DenoiserPlan

STEP_FACTOR: Final = 4  # features of the number of a step, as a multiple of those of the first stage


class Denoiser(nn.Module):
    """Residual blocks down and up again; every block of the encoder gives features to one of the decoder."""

    def __init__(self, plan: DenoiserPlan) -> None:
        super().__init__()
        self.plan = plan
        self.is_scaled = plan.form == "guided"
        first = plan.features_per_stage[0]
        self.width = width = STEP_FACTOR * first
        self.embedding = nn.Sequential(nn.Linear(first, width), nn.SiLU(), nn.Linear(width, width))
        self.stem = build_kernel(plan.input_channels, first, plan.kernel_sizes[0])
        self.encoder, kept = nn.ModuleList(), [first]
        for stage, features in enumerate(plan.features_per_stage):
            if stage > 0:
                self.encoder.append(self._build_reduction(kept[-1], stage))
                kept.append(kept[-1])
            for _ in range(plan.blocks_per_stage):
                self.encoder.append(self._build_block(kept[-1], features, stage))
                kept.append(features)
        last = plan.stage_count - 1
        self.middle = MiddleBlocks(
            kept[-1],
            plan.kernel_sizes[-1],
            has_attention=bool(plan.attention_stages),
            step_features=width,
            is_scaled=self.is_scaled,
            dropout=plan.dropout,
            heads=plan.heads,
        )
        self.decoder, channels = nn.ModuleList(), kept[-1]
        for stage in range(last, -1, -1):
            features = plan.features_per_stage[stage]
            for _ in range(plan.blocks_per_stage + 1):
                self.decoder.append(self._build_block(channels + kept.pop(), features, stage))
                channels = features
            if stage > 0:
                self.decoder.append(self._build_enlargement(channels, stage))
        self.norm = build_group_norm(channels)
        self.head = build_kernel(channels, plan.output_channels, plan.kernel_sizes[0])

    def forward(
        self, noisy: Float[Tensor, "batch channel *space"], steps: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch output *space"]:
        """Estimates what the plan says from noisy data and features of the image."""
        embedding = self.embedding(embed_steps(steps, self.plan.features_per_stage[0]).to(noisy.dtype))
        features = self.stem(noisy)
        kept = [features]
        for part in self.encoder:
            features = part(features, embedding)
            kept.append(features)
        features = self.middle(features, embedding)
        for part in self.decoder:
            is_joined = isinstance(part, AttendingBlock)
            features = part(torch.cat((features, kept.pop()), dim=1) if is_joined else features, embedding)
        estimate: Tensor = self.head(nn.functional.silu(self.norm(features)))
        return estimate

    def _build_block(self, channels_in: int, channels_out: int, stage: int) -> "AttendingBlock":
        kernel, plan = self.plan.kernel_sizes[stage], self.plan
        has_attention = stage in plan.attention_stages
        return AttendingBlock(
            DenoisingBlock(
                channels_in,
                channels_out,
                kernel,
                step_features=self.width,
                is_scaled=self.is_scaled,
                dropout=plan.dropout,
            ),
            VoxelAttention(channels_out, len(kernel), heads=plan.heads, is_biased=self.is_scaled)
            if has_attention
            else None,
        )

    def _build_reduction(self, channels: int, stage: int) -> nn.Module:
        plan = self.plan
        if self.is_scaled:
            return self._build_resampling(channels, stage, POOLINGS[plan.dimensions])
        return StepIndependent(build_reduction(channels, plan.kernel_sizes[stage], plan.strides[stage]))

    def _build_enlargement(self, channels: int, stage: int) -> nn.Module:
        plan = self.plan
        if self.is_scaled:
            return self._build_resampling(channels, stage, partial(Enlargement, mode="nearest"))
        return StepIndependent(build_enlargement(channels, plan.kernel_sizes[stage], plan.strides[stage]))

    def _build_resampling(
        self, channels: int, stage: int, resample: Callable[[tuple[int, ...]], nn.Module]
    ) -> DenoisingBlock:
        return DenoisingBlock(
            channels,
            channels,
            self.plan.kernel_sizes[stage],
            step_features=self.width,
            dropout=self.plan.dropout,
            resampling=resample(self.plan.strides[stage]),
        )


class StepIndependent(nn.Module):
    """A change of resolution, which is the same in every step."""

    def __init__(self, resampling: nn.Module) -> None:
        super().__init__()
        self.resampling = resampling

    def forward(
        self, features: Float[Tensor, "batch channel *space"], embedding: Float[Tensor, "batch step"]
    ) -> Float[Tensor, "batch channel ..."]:
        """Applies it."""
        del embedding
        resampled: Tensor = self.resampling(features)
        return resampled


class AttendingBlock(nn.Module):
    """A residual block, and attention after it where it is planned."""

    def __init__(self, block: DenoisingBlock, attention: VoxelAttention | None) -> None:
        super().__init__()
        self.block = block
        self.attention: nn.Module = attention or nn.Identity()

    def forward(
        self, features: Float[Tensor, "batch channel_in *space"], embedding: Float[Tensor, "batch step"]
    ) -> Float[Tensor, "batch channel_out *space"]:
        """Applies both."""
        processed: Tensor = self.attention(self.block(features, embedding))
        return processed
