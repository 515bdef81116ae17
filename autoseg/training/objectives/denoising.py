"""Training of diffusion of label maps: estimates of bits to which noise was added (arXiv:2006.11239, 2208.04202)."""

from typing import Final

import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network.diffusion_unet import DiffusionUNetPlan
from autoseg.plan.objectives import DenoisingObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.runtime.streams import copy_to_device
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import build_output_masks, find_valid_voxels
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective

VALIDATION_SEED: Final = 0


class Denoising(Objective):
    """The mean squared difference of the estimate, and the loss terms of the logits that it means."""

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del network, seed
        assert isinstance(plan.training.objective, DenoisingObjective), "the table of objectives says so"
        assert isinstance(plan.network, DiffusionUNetPlan), "plans are checked"
        self.plan, self.network, self.labels, self.part = plan.training.objective, plan.network, labels, part
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.patch_spacing_mm, part=part)

    def find_capture_problem(self) -> str | None:
        """Finds that the noise is drawn on the CPU."""
        return "the noise of diffusion is drawn on the CPU"

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once in training, and once more in validation, to predict as it will."""
        masks = build_output_masks(batch.label_map, self.labels)
        noise, steps, kept = self._draw(masks)
        logits, estimate = network(batch.image * kept, masks, noise, steps)
        wanted = 2 * masks - 1 if self.network.estimate == "bits" else noise
        loss = self.plan.estimate_weight * self._compare(estimate, wanted, batch.label_map)
        if self.plan.segmentation_weight > 0:
            terms = self.loss((logits,), batch.label_map, (1.0,), progress=self.progress)
            loss = loss + self.plan.segmentation_weight * terms
        return loss, logits if self.training else network(batch.image)[0]

    def _compare(self, found: Tensor, expected: Tensor, label_map: Tensor) -> Tensor:
        """Computes the mean squared difference in all voxels of the batch but ignored ones."""
        difference = (found.float() - expected).square()
        valid = find_valid_voxels(label_map, self.labels)
        if valid is None:
            return self.part.add_up(difference.mean() * self.part.share)
        voxels = self.part.add_up(valid.sum().float())
        return self.part.add_up((difference * valid).sum()) / (voxels * found.shape[1]).clamp(min=1)

    def _draw(self, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws noise, steps, and which samples keep their image: in training anew in every iteration, in validation
        always the same noise and steps, with every image."""
        generator = None if self.training else torch.Generator().manual_seed(VALIDATION_SEED)
        count, last = len(masks), self.network.diffusion.steps
        noise = self.part.draw(lambda whole: torch.randn((whole, *masks.shape[1:]), generator=generator), count)
        steps = self.part.draw(lambda whole: torch.randint(1, last + 1, (whole,), generator=generator), count)
        shares, chances = (
            self.part.draw(lambda whole: torch.rand(whole, generator=generator), count) for _ in range(2)
        )
        is_last = shares < self.plan.last_step_fraction
        is_kept = chances >= (self.plan.image_dropout if self.training else 0.0)
        kept = is_kept.float().reshape(-1, *(1,) * (masks.ndim - 1))
        noise, steps, kept = (
            copy_to_device(drawn, masks.device) for drawn in (noise, torch.where(is_last, last, steps), kept)
        )
        return noise, steps, kept
