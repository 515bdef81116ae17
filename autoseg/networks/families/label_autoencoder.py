"""Autoencoders of label maps, in the form of that of Stable Diffusion (Rombach et al. 2022, arXiv:2112.10752)."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.diffusion.denoising_blocks import (
    DenoisingBlock,
    MiddleBlocks,
    build_enlargement,
    build_group_norm,
    build_late_reduction,
    build_reduction,
    use_published_epsilon,
    zero_last_convolutions,
)
from autoseg.networks.parts.diffusion.label_pictures import LabelPictures
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.plan.network.label_autoencoder import PICTURE_CHANNELS, LabelAutoencoderPlan

PUBLISHED_SCALE: Final = 0.18215  # of the latents of Stable Diffusion, so that their variance is about 1


class LatentEncoder(nn.Module):
    """An encoder from the resolution of an image to that of latents, also for images themselves.

    Args:
        plan: The autoencoder whose stages it has.
        channels_in: Channels of its input.
        features_per_stage: Channels of its stages.
    """

    def __init__(self, plan: LabelAutoencoderPlan, channels_in: int, features_per_stage: Sequence[int]) -> None:
        super().__init__()
        self.latent_channels, kernels = plan.latent_channels, plan.kernel_sizes
        channels = features_per_stage[0]
        reduce = build_reduction if plan.pictures is None else build_late_reduction
        self.stem = build_kernel(channels_in, channels, kernels[0])
        self.stages = nn.Sequential()
        for stage, (features, kernel) in enumerate(zip(features_per_stage, kernels, strict=True)):
            if stage > 0:
                self.stages.append(reduce(channels, kernel, plan.strides[stage]))
            for _ in range(plan.blocks_per_stage):
                self.stages.append(DenoisingBlock(channels, features, kernel))
                channels = features
        self.middle = MiddleBlocks(channels, kernels[-1], has_attention=plan.has_attention)
        self.norm = build_group_norm(channels)
        has_variances = plan.latents == "gaussian"
        outputs = plan.latent_channels * (2 if has_variances else 1)
        self.head = build_kernel(channels, outputs, kernels[-1])
        one = get_ones(kernels[-1])
        self.moments = build_kernel(outputs, outputs, one) if has_variances else nn.Identity()
        if plan.pictures is not None:
            use_published_epsilon(self)

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch latent *space_below"]:
        """Computes latents without bounds; of Gaussian ones the means."""
        features = self.middle(self.stages(self.stem(image)))
        encoded: Tensor = self.moments(self.head(nn.functional.silu(self.norm(features))))
        return encoded[:, : self.latent_channels]


class LatentDecoder(nn.Module):
    """The decoder of an autoencoder."""

    def __init__(self, plan: LabelAutoencoderPlan) -> None:
        super().__init__()
        channels, kernels, latents = plan.features_per_stage[-1], plan.kernel_sizes, plan.latent_channels
        is_published = plan.latents == "gaussian"
        self.moments = build_kernel(latents, latents, get_ones(kernels[-1])) if is_published else nn.Identity()
        self.stem = build_kernel(latents, channels, kernels[-1])
        self.middle = MiddleBlocks(channels, kernels[-1], has_attention=plan.has_attention)
        self.stages = nn.Sequential()
        for stage in range(plan.stage_count - 1, -1, -1):
            features, kernel = plan.features_per_stage[stage], kernels[stage]
            for _ in range(plan.blocks_per_stage + 1):
                self.stages.append(DenoisingBlock(channels, features, kernel))
                channels = features
            if stage > 0:
                self.stages.append(build_enlargement(channels, kernel, plan.strides[stage]))
        self.norm = build_group_norm(channels)
        outputs = plan.output_channels if plan.pictures is None else PICTURE_CHANNELS
        self.head = build_kernel(channels, outputs, kernels[0])
        if plan.pictures is not None:
            use_published_epsilon(self)

    def forward(self, latents: Float[Tensor, "batch latent *space_below"]) -> Float[Tensor, "batch output *space"]:
        """Computes logits."""
        features = self.stages(self.middle(self.stem(self.moments(latents))))
        logits: Tensor = self.head(nn.functional.silu(self.norm(features)))
        return logits


class LabelAutoencoder(SegmentationNetwork):
    """An encoder of label maps and a decoder; its image has one channel per class, its logits are those of a label map.

    In training, noise is added to the latents.

    Attributes:
        latent_scale: Factor of Gaussian latents; of an autoencoder of pictures a part of the state.
    """

    plan: LabelAutoencoderPlan
    latent_scale: Tensor | float

    def __init__(self, plan: LabelAutoencoderPlan) -> None:
        super().__init__(plan)
        self.pictures = None if plan.pictures is None else LabelPictures(plan.pictures)
        channels = plan.input_channels if plan.pictures is None else PICTURE_CHANNELS
        self.encoder = LatentEncoder(plan, channels, plan.features_per_stage)
        self.decoder = LatentDecoder(plan)
        if plan.pictures is None:
            self.latent_scale = PUBLISHED_SCALE
        else:
            self.register_buffer("latent_scale", torch.tensor(PUBLISHED_SCALE))

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Encodes and decodes."""
        latents = self.encode(image)
        if self.training and self.plan.latent_noise > 0:
            latents = latents + self.plan.latent_noise * torch.randn_like(latents)
        return (self.decode(latents),)

    def encode(self, masks: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch latent *space_below"]:
        """Computes the latents of label maps."""
        latents: Tensor = self.encoder(masks if self.pictures is None else self.pictures.paint(masks))
        return latents.tanh() if self.plan.latents == "bounded" else latents * self.latent_scale

    def decode(self, latents: Float[Tensor, "batch latent *space_below"]) -> Float[Tensor, "batch output *space"]:
        """Computes the logits of latents."""
        found: Tensor = self.decoder(latents if self.plan.latents == "bounded" else latents / self.latent_scale)
        return found if self.pictures is None else self.pictures.find_logits(found)

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Sets the first weights; residual blocks begin as their shortcuts."""
        super().initialize_weights(generator)
        zero_last_convolutions(self)

    @property
    def output_weights(self) -> tuple[float, ...]:
        """That of the only output."""
        return (1.0,)
