"""Training of latent diffusion: estimates of latents to which noise was added (Lin et al. 2024, arXiv:2406.18361)."""

from typing import Final

import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network.latent_diffusion import LatentDiffusionPlan
from autoseg.plan.objectives import LatentDiffusionObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.runtime.streams import copy_to_device
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import build_output_masks, fill_ignored_voxels
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective

VALIDATION_SEED: Final = 0


class LatentEstimation(Objective):
    """The mean absolute differences of latents and noise, and the loss terms of the decoded latents."""

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del network, seed
        assert isinstance(plan.training.objective, LatentDiffusionObjective), "the table of objectives says so"
        assert isinstance(plan.network, LatentDiffusionPlan), "plans are checked"
        self.plan, self.network, self.labels, self.part = plan.training.objective, plan.network, labels, part
        self.spacing_mm = plan.patch_spacing_mm
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.patch_spacing_mm, part=part)

    def find_capture_problem(self) -> str | None:
        """Finds that the noise is drawn on the CPU."""
        return "the noise of latent diffusion is drawn on the CPU"

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once in training, and once more in validation, to predict as it will."""
        filled = fill_ignored_voxels(batch.label_map, self.labels, spacing_mm=self.spacing_mm)
        masks = build_output_masks(filled, self.labels)
        noise, steps = self._draw(batch)
        decodes = self.plan.segmentation_weight > 0
        logits, found, start, found_noise = network(batch.image, masks, noise, steps, decodes=decodes)
        loss = self.plan.latent_weight * self._compare(found, start)
        if self.network.estimate == "noise":
            loss = loss + self.plan.noise_weight * self._compare(found_noise, noise)
        if self.plan.segmentation_weight > 0:
            terms = self.loss((logits,), batch.label_map, (1.0,), progress=self.progress)
            loss = loss + self.plan.segmentation_weight * terms
        return loss, logits if self.training else network(batch.image)[0]

    def _compare(self, found: Tensor, expected: Tensor) -> Tensor:
        return self.part.add_up((found.float() - expected.float()).abs().mean() * self.part.share)

    def _draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draws noise and steps: in training anew in every iteration, in validation always the same."""
        generator = None if self.training else torch.Generator().manual_seed(VALIDATION_SEED)
        count, extents = len(batch.image), batch.image.shape[2:]
        grid = (whole // part for whole, part in zip(extents, self.network.autoencoder.patch_divisors, strict=True))
        shape = (self.network.autoencoder.latent_channels, *grid)
        noise = self.part.draw(lambda whole: torch.randn((whole, *shape), generator=generator), count)
        last = self.network.diffusion.steps
        steps = self.part.draw(lambda whole: torch.randint(1, last + 1, (whole,), generator=generator), count)
        shares = self.part.draw(lambda whole: torch.rand(whole, generator=generator), count)
        is_last = shares < self.plan.last_step_fraction
        device = batch.image.device
        return copy_to_device(noise, device), copy_to_device(torch.where(is_last, last, steps), device)
