"""The weighted sum of loss terms, over all outputs of a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int16
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import TargetKind
from autoseg.plan.losses import LossTerm
from autoseg.runtime.distributed import WHOLE_BATCH, BatchPart
from autoseg.training.losses import LOSSES
from autoseg.training.losses.edges import compute_edge_entropy
from autoseg.training.losses.targets import Target, build_target, crop_label_map, reduce_label_map


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedLoss:
    """Loss terms of several outputs, each with a weight.

    Attributes:
        terms: Loss terms with their weights.
        labels: Tells classes from the ignore label.
        spacing_mm: Distance of neighbouring voxels of the patch along each axis.
        part: The part of the batch that this process sees; the loss is that of the whole batch.
    """

    terms: tuple[LossTerm, ...]
    labels: LabelScheme
    spacing_mm: tuple[float, ...]
    part: BatchPart = WHOLE_BATCH

    def __call__(
        self,
        outputs: Sequence[Float[Tensor, "batch _output ..."]],
        label_map: Int16[Tensor, " batch ..."],
        output_weights: Sequence[float],
        *,
        output_targets: Sequence[TargetKind] | None = None,
        progress: float = 0.0,
    ) -> Float32[Tensor, ""]:
        """Computes the weighted sum over all outputs, each compared with the label map at its resolution.

        Args:
            outputs: Logits, of the extent of the label map or coarser.
            label_map: Labels of the patches, cropped to the middle that the first output covers.
            output_weights: Weight of every output.
            output_targets: Kind of target of every output; None: labels.
            progress: Share of the training that is done, for terms whose weight changes.
        """
        label_map = crop_label_map(label_map, outputs[0].shape[2:])
        extents = dict.fromkeys(tuple(logits.shape[2:]) for logits in outputs)
        targets = {extent: self._build_target(label_map, extent) for extent in extents}
        usual: TargetKind = "labels"
        kinds = output_targets or (usual,) * len(outputs)
        losses = [
            weight * self._compute_loss(kind, logits.float(), targets[tuple(logits.shape[2:])], progress)
            for weight, kind, logits in zip(output_weights, kinds, outputs, strict=True)
        ]
        return torch.stack(losses).sum()

    def _compute_loss(self, kind: TargetKind, logits: Tensor, target: Target, progress: float) -> Tensor:
        if kind == "edges":
            return compute_edge_entropy(logits, target, self.part)
        return self._compute_terms(logits, target, progress)

    def _build_target(self, label_map: Tensor, extents: tuple[int, ...]) -> Target:
        ratios = (whole / extent for whole, extent in zip(label_map.shape[1:], extents, strict=True))
        spacing_mm = tuple(spacing * ratio for spacing, ratio in zip(self.spacing_mm, ratios, strict=True))
        return build_target(reduce_label_map(label_map, extents), self.labels, spacing_mm=spacing_mm)

    def _compute_terms(self, logits: Tensor, target: Target, progress: float) -> Tensor:
        losses = [
            term.compute_weight(progress) * LOSSES[term.name](term, logits, target, self.part) for term in self.terms
        ]
        return torch.stack(losses).sum()
