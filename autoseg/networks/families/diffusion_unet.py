"""Segmentation by diffusion of the label map itself, given the image."""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.diffusion.denoiser import Denoiser
from autoseg.networks.parts.diffusion.denoising_blocks import zero_last_convolutions
from autoseg.networks.parts.diffusion.process import Diffusion, ImplicitStep, compute_variances, space_steps, tile
from autoseg.plan.network.diffusion_unet import DiffusionUNetPlan

LARGEST_BIT: Final = 0.99
"""Limit of bits that were computed from noise, so that their logits are finite: a probability of 0.995."""


class DiffusionUNet(SegmentationNetwork):
    """A denoiser of label maps, whose outputs are bits: -1 or 1 where the data have no noise; or of images.

    In a denoiser of images the roles are exchanged: what is called image below is the masks of a label map, what is
    called masks, bits and logits is an image.

    Attributes:
        noise: The noise with which prediction begins; a part of the state, so that every copy predicts the same.
        summarize: Computes one more channel from the logits of each sample, whose mean prediction then returns behind
            those of the logits; None: prediction returns logits alone.
    """

    plan: DiffusionUNetPlan
    summarize: Callable[[Tensor], Tensor] | None = None
    noise: Tensor

    def __init__(self, plan: DiffusionUNetPlan) -> None:
        super().__init__(plan)
        self.denoiser = Denoiser(plan.denoiser)
        self.diffusion = Diffusion(compute_variances(plan.diffusion))
        self.implicit_steps = self.diffusion.list_implicit_steps(space_steps(plan.diffusion.steps, plan.sampler_steps))
        self.register_buffer("noise", torch.zeros(1, plan.output_channels, *plan.noise_grid))

    def forward(
        self,
        image: Float[Tensor, "batch channel *space"],
        masks: Float[Tensor, "batch output *space"] | None = None,
        noise: Float[Tensor, "batch output *space"] | None = None,
        steps: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch output *space"], ...]:
        """Computes the mean logits of all samples; in training, those of a label map to which noise was added.

        Without a label map, training mode takes the first step of the first sample alone: what a training step costs.

        Args:
            image: Its extents are multiples of `NetworkPlan.patch_divisors`.
            masks: The label map, one channel per output; None: it is predicted.
            noise: Noise on the same grid; needed with `masks`.
            steps: Numbers of the diffusion steps; needed with `masks`.

        Returns:
            The logits; with `masks`, also what is estimated: the noise, or the bits. Of images the estimate alone.
        """
        if masks is None:
            return (self._take_first_step(image) if self.training else self._predict(image),)
        assert noise is not None, "a label map and noise go together"
        assert steps is not None, "noise is that of a step"
        if self.plan.estimate == "image":
            return (self._estimate(image, self.diffusion.add_noise(masks.float(), steps, noise), steps),)
        noisy = self.diffusion.add_noise(2 * masks.float() - 1, steps, noise)
        estimate = self._estimate(image, noisy, steps)
        if self.plan.estimate == "bits":
            return estimate, find_bits(estimate)
        return find_logits(self.diffusion.predict_start(noisy, steps, estimate)), estimate

    def estimate_image(self, masks: Tensor, noisy: Tensor, number: int) -> Tensor:
        """Estimates an image from its state after a step of diffusion, guided by its label map as planned."""
        assert self.plan.estimate == "image", "it denoises no images"
        (step,) = self.diffusion.list_implicit_steps((number,))
        return self._find_logits(masks, noisy, step)

    def _predict(self, image: Tensor) -> Tensor:
        """Takes all steps back for every sample, and averages the logits of the last ones."""
        logits = [self._sample(image, self._draw(image, index)) for index in range(self.plan.samples)]
        mean = torch.stack(logits).mean(0)
        if self.summarize is None:
            return mean
        return torch.cat((mean, torch.stack([self.summarize(sample) for sample in logits]).mean(0)), dim=1)

    def _sample(self, image: Tensor, noisy: Tensor) -> Tensor:
        logits = noisy
        for step in self.implicit_steps:
            logits = self._find_logits(image, noisy, step)
            noisy = step.take(noisy, logits if self.plan.estimate == "image" else find_bits(logits))
        return logits

    def _take_first_step(self, image: Tensor) -> Tensor:
        return self._find_logits(image, self._draw(image, 0), self.implicit_steps[0])

    def _find_logits(self, image: Tensor, noisy: Tensor, step: ImplicitStep) -> Tensor:
        """Finds the logits that an estimate means, guided by the image as planned."""
        kept, steps = step.kept, torch.full((len(image),), step.number, device=image.device)
        estimate = self._estimate(image, noisy, steps)
        if self.plan.is_guided:
            unguided = self._estimate(torch.zeros_like(image), noisy, steps)
            estimate = unguided + self.plan.guidance_scale * (estimate - unguided)
        if self.plan.estimate != "noise":
            return estimate
        return find_logits((noisy - (1 - kept) ** 0.5 * estimate) / kept**0.5)

    def _estimate(self, image: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        estimate: Tensor = self.denoiser(torch.cat((noisy.to(image.dtype), image), dim=1), steps)
        return estimate.float()

    def _draw(self, image: Tensor, index: int) -> Tensor:
        """Returns the noise of a sample: that of the state, moved along every axis so far that no two are alike."""
        shifts = [index * extent // self.plan.samples for extent in self.noise.shape[2:]]
        moved = torch.roll(self.noise, shifts, tuple(range(2, self.noise.ndim))) if index > 0 else self.noise
        noisy = tile(moved, image.shape[2:]).float()
        return noisy.expand(len(image), *noisy.shape[1:])

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The last convolution."""
        return ("denoiser.head",)

    @property
    def output_layers(self) -> tuple[nn.Module, ...] | None:
        """The last convolution, unless it estimates noise."""
        return super().output_layers if self.plan.estimate == "bits" else None

    @property
    def output_weights(self) -> tuple[float, ...]:
        """That of the only output."""
        return (1.0,)

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Sets the first weights and draws the noise; the denoiser begins with an estimate of zero."""
        super().initialize_weights(generator)
        zero_last_convolutions(self)
        nn.init.zeros_(self.denoiser.head.get_parameter("weight"))
        with torch.no_grad():
            self.noise.copy_(torch.randn(self.noise.shape, generator=generator))


def find_bits(logits: Tensor) -> Tensor:
    """Finds the bits, from -1 to 1, that logits mean: twice the sigmoid, less 1."""
    return torch.tanh(logits / 2)


def find_logits(bits: Tensor) -> Tensor:
    """Finds the logits that bits mean, clipped."""
    return 2 * torch.atanh(bits.clamp(-LARGEST_BIT, LARGEST_BIT))
