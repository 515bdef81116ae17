"""Label autoencoders: what label maps can look like, as few numbers at a coarser grid."""

from collections.abc import Mapping
from math import prod
from typing import Literal

from pydantic import model_validator

from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.values import BlockCount, ChannelCount, NonNegative


class LabelAutoencoderPlan(StagedNetworkPlan):
    """An encoder to latents and a decoder without skip connections (Rombach et al. 2022, arXiv:2112.10752).

    Its image is a label map, with one channel per output of a segmentation network. The latents lie on the grid of the
    last stage.

    Attributes:
        blocks_per_stage: Residual blocks of every stage of the encoder; the decoder has one more.
        latent_channels: Channels of the latents.
        latents: "bounded": a hyperbolic tangent keeps them between -1 and 1. "gaussian": the means of the autoencoder
            of Stable Diffusion, which also predicts variances, times 0.18215.
        latent_noise: Standard deviation of the noise that is added to the latents in training, so that similar latents
            mean similar label maps.
        has_attention: Whether the voxels of the last stage attend to each other.
    """

    family: Literal["label_autoencoder"] = "label_autoencoder"
    blocks_per_stage: BlockCount
    latent_channels: ChannelCount
    latents: Literal["bounded", "gaussian"]
    latent_noise: NonNegative
    has_attention: bool

    def describe(self) -> Mapping[str, str]:
        """Describes the stages and the latents."""
        factor = " x ".join(map(str, self.patch_divisors))
        return {**super().describe(), "latents": f"{self.latent_channels} channels at 1 / ({factor})"}

    @model_validator(mode="after")
    def _check_latents(self) -> "LabelAutoencoderPlan":
        if prod(self.patch_divisors) == 1:
            msg = "strides must hold one above 1, or the latents would be as fine as the label map"
            raise ValueError(msg)
        return self
