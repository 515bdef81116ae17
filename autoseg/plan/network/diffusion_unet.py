"""Diffusion of label maps themselves: a denoiser of bits, given the image."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from autoseg.plan.network.base import NetworkPlan
from autoseg.plan.network.latent_diffusion import MOST_STEPS, DenoiserPlan, DiffusionPlan
from autoseg.plan.values import Extents, Positive

MOST_SAMPLES: Final = 100


class DiffusionUNetPlan(NetworkPlan):
    """A denoiser of label maps as bits, -1 or 1 for each output (Chen et al. 2023, arXiv:2208.04202), beside the image.

    Prediction is the mean of the logits of several samples, each of which begins with noise that does not change.

    Attributes:
        denoiser: The network that estimates the noise or the bits.
        diffusion: The forward process.
        estimate: Quantity that the denoiser estimates: the "noise", or the logits of the "bits" without noise. "image":
            the roles are exchanged, and it estimates an image beside the masks of its label map (`autoseg synthesize`).
        sampler_steps: Number of steps in which prediction goes back from noise to bits; the network is called once in
            each. They are implicit (Song et al. 2021, arXiv:2010.02502): nothing is drawn on the way.
        samples: Number of samples that a prediction averages.
        guidance_scale: Factor by which an estimate without the image is left behind for one with it (Ho and Salimans
            2022, arXiv:2207.12598), at the price of twice the calls; 1: the estimate with it alone.
        noise_grid: Extents of the noise with which prediction begins: those of the planned patch. It is repeated for
            other patches.
    """

    family: Literal["diffusion_unet"] = "diffusion_unet"
    denoiser: DenoiserPlan
    diffusion: DiffusionPlan
    estimate: Literal["noise", "bits", "image"]
    sampler_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
    guidance_scale: Positive = 1.0
    noise_grid: Extents

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """The product of the strides of the denoiser."""
        return self.denoiser.patch_divisors

    @property
    def required_objective(self) -> str:
        """The objective of denoising label maps, or images."""
        return "image_denoising" if self.estimate == "image" else "denoising"

    def with_input_channels(self, count: int) -> "DiffusionUNetPlan":
        """Returns the plan with a denoiser that sees so many channels beside the label map."""
        denoiser = self.denoiser.model_copy(update={"input_channels": count + self.output_channels})
        return self.model_copy(update={"input_channels": count, "denoiser": denoiser})

    @property
    def is_guided(self) -> bool:
        """Whether an estimate needs a second call, without the image."""
        return self.guidance_scale != 1

    @property
    def prediction_calls(self) -> int:
        """The calls of the denoiser."""
        return self.samples * self.sampler_steps * (2 if self.is_guided else 1)

    def describe(self) -> Mapping[str, str]:
        """Describes the denoiser and how prediction samples."""
        return {
            **self.denoiser.describe(),
            "estimate": self.estimate,
            "samples": f"{self.samples} (steps of each: {self.sampler_steps})",
        }

    @model_validator(mode="after")
    def _check_parts(self) -> "DiffusionUNetPlan":
        expected = {
            "denoiser.dimensions": (self.denoiser.dimensions, self.dimensions),
            "denoiser.input_channels": (self.denoiser.input_channels, self.input_channels + self.output_channels),
            "denoiser.output_channels": (self.denoiser.output_channels, self.output_channels),
            "the axes of noise_grid": (len(self.noise_grid), self.dimensions),
        }
        for field, (found, wanted) in expected.items():
            if found != wanted:
                msg = f"{field} must be {wanted}, as the other parts demand (got {found})"
                raise ValueError(msg)
        if self.sampler_steps > self.diffusion.steps:
            most = self.diffusion.steps
            msg = f"sampler_steps must be at most the {most} of diffusion.steps (got {self.sampler_steps})"
            raise ValueError(msg)
        return self
