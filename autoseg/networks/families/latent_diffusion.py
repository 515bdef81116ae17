"""Segmentation by latent diffusion in a single step (Lin et al. 2024, arXiv:2406.18361)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autoseg.networks.families.label_autoencoder import LabelAutoencoder, LatentEncoder
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.diffusion.denoiser import Denoiser
from autoseg.networks.parts.diffusion.denoising_blocks import zero_last_convolutions
from autoseg.networks.parts.diffusion.process import Diffusion, compute_variances, tile
from autoseg.plan.network.latent_diffusion import LatentDiffusionPlan


class LatentDiffusion(SegmentationNetwork):
    """A label autoencoder that is never trained here, an encoder of the image, and a denoiser of latents.

    Attributes:
        noise: The noise with which prediction begins; a part of the state, so that every copy predicts the same.
    """

    plan: LatentDiffusionPlan
    noise: Tensor

    def __init__(self, plan: LatentDiffusionPlan) -> None:
        super().__init__(plan)
        self.autoencoder = LabelAutoencoder(plan.autoencoder).requires_grad_(requires_grad=False)
        self.vision = LatentEncoder(plan.autoencoder, plan.input_channels, plan.vision_features_per_stage)
        self.denoiser = Denoiser(plan.denoiser)
        self.diffusion = Diffusion(compute_variances(plan.diffusion))
        self.kept_at_last = float(self.diffusion.kept[-1])
        self.register_buffer("noise", torch.zeros(1, plan.autoencoder.latent_channels, *plan.noise_grid))

    def forward(
        self,
        image: Float[Tensor, "batch channel *space"],
        masks: Float[Tensor, "batch output *space"] | None = None,
        noise: Float[Tensor, "batch latent ..."] | None = None,
        steps: Int[Tensor, " batch"] | None = None,
        *,
        decodes: bool = True,
    ) -> tuple[Float[Tensor, "batch _output ..."], ...]:
        """Computes the logits of the only step of prediction; in training, of latents to which noise was added.

        Args:
            image: Its extents are multiples of `NetworkPlan.patch_divisors`.
            masks: The label map, one channel per output; None: it is predicted.
            noise: Noise on the grid of the latents; needed with `masks`.
            steps: Numbers of the diffusion steps; needed with `masks`.
            decodes: Whether the estimated latents of a label map are decoded.

        Returns:
            The logits, or the estimated latents if they are not decoded; with `masks`, also the estimated latents, the
            true ones, and the estimated noise.
        """
        features = self._see(image)
        if masks is None:
            latents = self._predict_latents(features)
            # The decoder of Stable Diffusion keeps more than all else, and its training does not go through it.
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.plan.pretrained is None):
                return (self.autoencoder.decode(latents),)
        assert noise is not None, "latents and noise go together"
        assert steps is not None, "noise is that of a step"
        with torch.no_grad():
            start = self.autoencoder.encode(masks)
        noisy = self.diffusion.add_noise(start.float(), steps, noise)
        estimate = self.denoiser(torch.cat((noisy.to(features.dtype), features), dim=1), steps).float()
        if self.plan.estimate == "latent":
            found, found_noise = estimate, self.diffusion.predict_noise(noisy, steps, estimate)
        else:
            found, found_noise = self.diffusion.predict_start(noisy, steps, estimate), estimate
        return self.autoencoder.decode(found) if decodes else found, found, start, found_noise

    def _see(self, image: Tensor) -> Tensor:
        """Encodes the image, with weights for pictures to the scale of their latents."""
        features: Tensor = self.vision(image)
        return features if self.plan.autoencoder.pictures is None else features * self.autoencoder.latent_scale

    def _predict_latents(self, features: Tensor) -> Tensor:
        """Estimates latents in one step from noise alone."""
        noisy = tile(self.noise, features.shape[2:]).to(features.dtype)
        noisy = noisy.expand(features.shape[0], *noisy.shape[1:])
        steps = torch.full((features.shape[0],), self.plan.diffusion.steps, device=features.device)
        estimate: Tensor = self.denoiser(torch.cat((noisy, features), dim=1), steps)
        if self.plan.estimate == "latent":
            return estimate
        lost: float = (1 - self.kept_at_last) ** 0.5
        latents: Tensor = (noisy - lost * estimate) / self.kept_at_last**0.5
        return latents

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Sets the first weights and draws the noise; the denoiser begins with an estimate of zero."""
        super().initialize_weights(generator)
        zero_last_convolutions(self)
        nn.init.zeros_(self.denoiser.head.get_parameter("weight"))
        with torch.no_grad():
            self.noise.copy_(torch.randn(self.noise.shape, generator=generator))

    def load_label_autoencoder(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the weights of the autoencoder."""
        self.autoencoder.load_state_dict(weights)

    @property
    def label_autoencoder(self) -> LabelAutoencoder:
        """The frozen autoencoder."""
        return self.autoencoder

    @property
    def output_weights(self) -> tuple[float, ...]:
        """That of the only output."""
        return (1.0,)
