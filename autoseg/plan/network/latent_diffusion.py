"""Latent diffusion: a denoiser of the latents of label maps, given those of the image."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from autoseg.document import Part
from autoseg.plan.network.base import NetworkPlan, PretrainedPlan, StagedNetworkPlan
from autoseg.plan.network.label_autoencoder import LabelAutoencoderPlan
from autoseg.plan.values import MOST_STAGES, BlockCount, ChannelCounts, Extents

MOST_STEPS: Final = 100_000
MOST_HEADS: Final = 64
NoiseSchedule = Literal["linear", "scaled_linear", "cosine"]
Variance = Annotated[float, Field(gt=0, lt=1)]


class DiffusionPlan(Part):
    """A forward process of Gaussian noise (Ho et al. 2020, arXiv:2006.11239).

    Attributes:
        schedule: Course of the variances of the steps from the first to the last. "scaled_linear": their square roots
            are linear (Stable Diffusion). "cosine": of the cumulative product, whatever the first and the last
            variance (Nichol and Dhariwal 2021, arXiv:2102.09672).
        steps: Number of steps.
        first_variance: Variance of the noise of the first step.
        last_variance: Variance of the noise of the last step.
    """

    schedule: NoiseSchedule
    steps: Annotated[int, Field(ge=2, le=MOST_STEPS)]
    first_variance: Variance
    last_variance: Variance


class DenoiserPlan(StagedNetworkPlan):
    """The U-Net of Ho et al. 2020, arXiv:2006.11239, on the grid of the latents; its first stage is that of latents.

    Its inputs are noisy latents and the features of an image; its output has the channels of the latents. Without
    latents, its inputs are a noisy label map and the image.

    Attributes:
        form: Form of the blocks. "ddpm": as in that paper, where the number of the step is added to the features, and
            convolutions change the resolution. "guided": it scales and shifts them, and blocks change the resolution
            (Dhariwal and Nichol 2021, arXiv:2105.05233).
        heads: Heads of every attention.
        blocks_per_stage: Residual blocks of every stage of the encoder; the decoder has one more.
        attention_stages: Indices of the stages whose voxels attend to each other; if there are any, those of the
            bottleneck do, too.
        dropout: Probability with which a feature of a residual block is set to zero in training.
    """

    family: Literal["denoiser"] = "denoiser"
    form: Literal["guided", "ddpm"] = "guided"
    heads: Annotated[int, Field(ge=1, le=MOST_HEADS)] = 1
    blocks_per_stage: BlockCount
    attention_stages: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=MOST_STAGES)]
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _check_heads(self) -> "DenoiserPlan":
        attending = {self.features_per_stage[stage] for stage in self.attention_stages if stage < self.stage_count}
        if self.attention_stages:
            attending.add(self.features_per_stage[-1])
        if any(features % self.heads for features in attending):
            msg = f"heads must divide the features of the stages with attention, {sorted(attending)} (got {self.heads})"
            raise ValueError(msg)
        return self


class LatentDiffusionPlan(NetworkPlan):
    """A frozen label autoencoder, an encoder of the image, a denoiser (Lin et al. 2024, arXiv:2406.18361).

    Prediction takes a single step, from noise that does not change to latents, which the decoder turns into logits.

    Attributes:
        autoencoder: The label autoencoder, which is trained first and then frozen.
        vision_features_per_stage: Channels of the encoder of the image, which has the stages of the autoencoder's.
        denoiser: The network that estimates the noise or the latents.
        diffusion: The forward process.
        estimate: Quantity that the denoiser estimates: the "noise", or the "latent" without noise.
        noise_grid: Extents of the noise with which prediction begins: those of the latents of the planned patch. It is
            repeated for other patches.
        pretrained: The weights of Stable Diffusion with which the autoencoder, the encoder of the image and maybe the
            denoiser begin; None: the autoencoder is trained first, and the others begin with random weights.
    """

    family: Literal["latent_diffusion"] = "latent_diffusion"
    autoencoder: LabelAutoencoderPlan
    vision_features_per_stage: ChannelCounts
    denoiser: DenoiserPlan
    diffusion: DiffusionPlan
    estimate: Literal["noise", "latent"]
    noise_grid: Extents
    pretrained: PretrainedPlan | None = None

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """The product of the strides of the autoencoder and the denoiser."""
        factors = zip(self.autoencoder.patch_divisors, self.denoiser.patch_divisors, strict=True)
        return tuple(outer * inner for outer, inner in factors)

    def describe(self) -> Mapping[str, str]:
        """Describes the features of the denoiser and the latents."""
        vision = " ".join(map(str, self.vision_features_per_stage))
        return {
            **self.denoiser.describe(),
            "features": f"{vision} and {self.denoiser.describe()['features']}",
            "latents": self.autoencoder.describe()["latents"],
            "estimate": self.estimate,
            **({} if self.pretrained is None else {"first weights": self.pretrained.describe()}),
        }

    @property
    def required_objective(self) -> str:
        """The objective of latents."""
        return "latent_diffusion"

    def find_label_autoencoder(self) -> LabelAutoencoderPlan:
        """Returns the autoencoder."""
        return self.autoencoder

    def find_pretrained(self) -> PretrainedPlan | None:
        """Finds the weights of Stable Diffusion."""
        return self.pretrained

    def with_pretrained(self, pretrained: PretrainedPlan | None) -> "LatentDiffusionPlan":
        """Returns the plan with other first weights."""
        return self.model_copy(update={"pretrained": pretrained})

    @model_validator(mode="after")
    def _check_pretrained(self) -> "LatentDiffusionPlan":
        if self.pretrained is not None and (
            "autoencoder" not in self.pretrained.parts or self.autoencoder.pictures is None
        ):
            msg = (
                "pretrained needs the part 'autoencoder' and autoencoder.pictures, the pictures that stand for label "
                "maps: plan again with --pretrained, or set pretrained to null"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> "LatentDiffusionPlan":
        latents = self.autoencoder.latent_channels
        expected = {
            "autoencoder.dimensions": (self.autoencoder.dimensions, self.dimensions),
            "denoiser.dimensions": (self.denoiser.dimensions, self.dimensions),
            "autoencoder.input_channels": (self.autoencoder.input_channels, self.output_channels),
            "autoencoder.output_channels": (self.autoencoder.output_channels, self.output_channels),
            "denoiser.input_channels": (self.denoiser.input_channels, 2 * latents),
            "denoiser.output_channels": (self.denoiser.output_channels, latents),
            "the number of vision_features_per_stage": (
                len(self.vision_features_per_stage),
                self.autoencoder.stage_count,
            ),
            "the axes of noise_grid": (len(self.noise_grid), self.dimensions),
        }
        for field, (found, wanted) in expected.items():
            if found != wanted:
                msg = f"{field} must be {wanted}, as the other parts demand (got {found})"
                raise ValueError(msg)
        return self
