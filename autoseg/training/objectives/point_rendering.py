"""Training of a head that answers uncertain points (PointRend, Kirillov et al. 2020, arXiv:1912.08193)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.points import spread
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import CrossEntropyTerm, DiceTerm
from autoseg.plan.network.point_rend import PointRendPlan
from autoseg.plan.objectives import PointRendObjective
from autoseg.runtime.distributed import WHOLE_BATCH, BatchPart
from autoseg.runtime.streams import copy_to_device
from autoseg.training.data.batch import Batch
from autoseg.training.losses.cross_entropy import compute_cross_entropy
from autoseg.training.losses.dice import compute_dice
from autoseg.training.losses.targets import Target, build_target, find_valid_voxels
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.objectives.objective import NetworkCall, Objective


class PointRendering(Objective):
    """The loss terms of the coarse map and lower levels, cross entropy of points, and the Dice of a rendered sample, if
    it is planned; in validation, the loss terms of the prediction and lower levels.
    """

    loss: WeightedLoss

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del seed
        assert isinstance(plan.training.objective, PointRendObjective), "the table of objectives says so"
        assert isinstance(plan.network, PointRendPlan), "plans are checked"
        self.plan, self.network, self.labels, self.part = plan.training.objective, plan.network, labels, part
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.patch_spacing_mm, part=part)
        self.term = CrossEntropyTerm(weight=self.plan.point_weight)
        self.dice = next((term for term in plan.training.losses if isinstance(term, DiceTerm)), None)
        self.output_weights = network.output_weights

    def find_capture_problem(self) -> str | None:
        """Finds that the points are drawn on the CPU."""
        return "the points of PointRend are drawn on the CPU"

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once, in validation as prediction does."""
        if not self.training:
            predicted = network(batch.image)
            return self._compare(predicted, batch.label_map), predicted[0]
        candidates, uniform = self._draw(batch.label_map)
        *outputs, answered, points, chosen = network(batch.image, candidates, uniform)
        entropy = compute_cross_entropy(self.term, answered.float(), self._find_target(batch, points), self.part)
        loss = self._compare(outputs, batch.label_map) + self.term.weight * entropy
        if self.plan.sample_dice_weight > 0 and self.dice is not None:
            sample = render_sample(outputs[0].detach(), candidates, answered, chosen)
            dice = compute_dice(self.dice, sample, self._find_target(batch, candidates), self.part)
            loss = loss + self.plan.sample_dice_weight * self.dice.weight * dice
        return loss, outputs[0]

    def _find_target(self, batch: Batch, voxels: Tensor) -> Target:
        """Finds the target of the logits of single voxels."""
        wanted = batch.label_map.flatten(1).gather(1, voxels)
        return build_target(wanted, self.labels, spacing_mm=self.loss.spacing_mm)

    def _compare(self, outputs: Sequence[Tensor], label_map: Tensor) -> Tensor:
        return self.loss(outputs, label_map, self.output_weights, progress=self.progress)

    def _draw(self, label_map: Tensor) -> tuple[Tensor, Tensor]:
        """Draws candidates, and the points that are taken whatever the logits."""
        count = self.network.count_points(label_map.shape[1:], self.network.training_fraction)
        uniform = count - round(self.plan.uncertain_fraction * count)
        candidates = max(count, self.plan.candidates_per_point * count)
        drawn = draw_voxels(label_map, find_valid_voxels(label_map, self.labels), candidates + uniform, self.part)
        return drawn[:, :candidates], drawn[:, candidates:]


def render_sample(
    coarse: Float[Tensor, "batch output *space"],
    candidates: Int[Tensor, "batch candidate"],
    answered: Float[Tensor, "batch output point"],
    chosen: Int[Tensor, "batch chosen"],
) -> Float32[Tensor, "batch output candidate"]:
    """Renders voxels drawn uniformly as prediction renders all: the uncertain ones are answered, others stay coarse.

    Args:
        coarse: Logits of the coarse map, enlarged.
        candidates: The voxels.
        answered: Logits of points, of which the first are the chosen candidates.
        chosen: Places among the candidates.
    """
    outputs = coarse.shape[1]
    found = coarse.flatten(2).gather(2, spread(candidates, outputs)).float()
    return found.scatter(2, spread(chosen, outputs), answered[..., : chosen.shape[1]].float())


def draw_voxels(
    label_map: Int[Tensor, " batch *space"],
    valid: Bool[Tensor, " batch 1 *space"] | None,
    count: int,
    part: BatchPart = WHOLE_BATCH,
) -> Int[Tensor, "batch {count}"]:
    """Draws voxels uniformly, with replacement, by torch's global generator.

    Args:
        label_map: Label map of the patches.
        valid: The voxels to draw from; None: all. Of a patch that has none, any are drawn.
        count: Number of voxels of every patch.
        part: The part of the batch that the label map is; every part draws what it would get in the whole.
    """
    # Double precision tells all voxels of a patch apart; the numbers are equal on every device.
    drawn = part.draw(lambda whole: torch.rand((whole, count), dtype=torch.float64), len(label_map))
    drawn = copy_to_device(drawn, label_map.device)
    voxels = label_map[0].numel()
    if valid is None:
        return (drawn * voxels).long()
    ranks = valid.flatten(1).long().cumsum(dim=1)
    wanted = (drawn * ranks[:, -1:]).long() + 1
    return torch.searchsorted(ranks, wanted).clamp(max=voxels - 1)
