"""An objective: the loss of patches and of noisy patches, in shares that are learnt."""

from typing import Literal

import torch
from torch import Tensor, nn

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import ObjectivePlan
from autoseg.plan.values import Positive
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective

SEED_STEP = 1_000_003


class PerturbedObjective(ObjectivePlan):
    name: Literal["perturbed"] = "perturbed"
    noise_std: Positive


class Perturbed(Objective):
    steps: Tensor

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        assert isinstance(plan.training.objective, PerturbedObjective)
        self.noise_std, self.seed = plan.training.objective.noise_std, seed
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.spacing_mm, part=part)
        self.output_weights = network.output_weights
        self.share_logits = nn.Parameter(torch.zeros(2))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        outputs = network(batch.image)
        clean = self.loss(outputs, batch.label_map, self.output_weights)
        if not self.training:
            return clean, outputs[0]
        noisy = self.loss(network(batch.image + self._draw_noise(batch.image)), batch.label_map, self.output_weights)
        return (torch.stack([clean, noisy]) * self.share_logits.softmax(0)).sum(), outputs[0]

    def _draw_noise(self, image: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + SEED_STEP * int(self.steps))
        self.steps += 1
        return self.noise_std * torch.randn(image.shape, generator=generator).to(image.device)
