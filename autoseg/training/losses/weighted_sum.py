"""The weighted sum of loss terms, over all outputs of a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int16
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.plan.losses import LossTerm
from autoseg.runtime.distributed import WHOLE_BATCH, BatchPart
from autoseg.training.losses import LOSSES
from autoseg.training.losses.targets import build_target, crop_label_map, reduce_label_map


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedLoss:
    """Loss terms of several outputs, each with a weight.

    Attributes:
        terms: Loss terms with their weights.
        labels: Tells classes from the ignore label.
        part: The part of the batch that this process sees; the loss is that of the whole batch.
    """

    terms: tuple[LossTerm, ...]
    labels: LabelScheme
    part: BatchPart = WHOLE_BATCH

    def __call__(
        self,
        outputs: Sequence[Float[Tensor, "batch output ..."]],
        label_map: Int16[Tensor, " batch ..."],
        output_weights: Sequence[float],
    ) -> Float32[Tensor, ""]:
        """Computes the weighted sum over all outputs, each compared with the label map at its resolution; the label map
        is cropped to the extents of the first."""
        covered = crop_label_map(label_map, outputs[0].shape[2:])
        losses = [
            weight * self._compute_at_one_resolution(logits.float(), reduce_label_map(covered, logits.shape[2:]))
            for weight, logits in zip(output_weights, outputs, strict=True)
        ]
        return torch.stack(losses).sum()

    def _compute_at_one_resolution(self, logits: Tensor, label_map: Tensor) -> Tensor:
        target = build_target(label_map, self.labels)
        losses = [term.weight * LOSSES[term.name](term, logits, target, self.part) for term in self.terms]
        return torch.stack(losses).sum()
