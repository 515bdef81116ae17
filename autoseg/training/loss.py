"""Soft Dice plus cross-entropy, at every supervised resolution (nnU-Net's losses, equation by equation)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float, Float32, Int16
from torch import Tensor
from torch.nn import functional

from autoseg.labels import LabelScheme
from autoseg.training.batch_part import BatchPart

SMOOTHING: Final = 1e-5
SMALLEST_DENOMINATOR: Final = 1e-8
WHOLE_BATCH: Final = BatchPart()
NO_LABEL: Final = -100  # torch's name for no voxel at all


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationLoss:
    """What training minimizes.

    Attributes:
        labels: Softmax over background and labels, or one sigmoid per region; voxels of the ignore label do not count.
        batch_dice: Dice treats the batch as one large volume.
        dice_weight: Factor on the Dice loss.
        cross_entropy_weight: Factor on the (binary) cross entropy.
        part: Of the batch, that this process sees; the loss is that of the whole batch.
    """

    labels: LabelScheme
    batch_dice: bool
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    part: BatchPart = WHOLE_BATCH

    def __call__(
        self,
        outputs: Sequence[Float[Tensor, "batch output ..."]],
        label_map: Int16[Tensor, " batch ..."],
        weights: Sequence[float],
    ) -> Float32[Tensor, ""]:
        """The weighted sum over all outputs, against the label map at their resolution."""
        losses = [
            weight * self.compute_at_one_resolution(logits.float(), reduce_label_map(label_map, logits.shape[2:]))
            for weight, logits in zip(weights, outputs, strict=True)
        ]
        return torch.stack(losses).sum()

    def compute_at_one_resolution(
        self, logits: Float32[Tensor, "batch output *space"], label_map: Int16[Tensor, " batch *space"]
    ) -> Float32[Tensor, ""]:
        """The weighted sum of Dice loss and (binary) cross-entropy."""
        masks = build_class_masks(label_map, self.labels)
        valid = find_valid_voxels(label_map, self.labels)
        if self.labels.has_regions:
            entropy = compute_binary_cross_entropy(logits, masks, valid, part=self.part)
            dice = compute_dice_loss(logits.sigmoid(), masks, valid, batch_dice=self.batch_dice, part=self.part)
            return self.cross_entropy_weight * entropy + self.dice_weight * dice
        entropy = compute_cross_entropy(logits, label_map, self.labels.ignore_label, part=self.part)
        dice = compute_dice_loss(logits.softmax(1)[:, 1:], masks, valid, batch_dice=self.batch_dice, part=self.part)
        return self.cross_entropy_weight * entropy + self.dice_weight * dice


def reduce_label_map(
    label_map: Int16[Tensor, " batch ..."], extent_voxels: Sequence[int]
) -> Int16[Tensor, " batch ..."]:
    """The nearest voxel of the label map for every voxel of a coarser grid."""
    if label_map.shape[1:] == tuple(extent_voxels):
        return label_map
    with_channel = label_map[:, None].float()
    return functional.interpolate(with_channel, size=tuple(extent_voxels), mode="nearest-exact")[:, 0].to(torch.int16)


def build_class_masks(
    label_map: Int16[Tensor, " batch *space"], labels: LabelScheme
) -> Bool[Tensor, "batch class *space"]:
    """One mask per class of `LabelScheme.class_labels`: foreground labels, or regions."""
    masks = [reduce(torch.logical_or, [label_map == label for label in members]) for members in labels.class_labels]
    return torch.stack(masks, dim=1)


def find_valid_voxels(
    label_map: Int16[Tensor, " batch *space"], labels: LabelScheme
) -> Bool[Tensor, "batch 1 *space"] | None:
    """Voxels that do not carry the ignore label; None where the data has no such label."""
    return None if labels.ignore_label is None else (label_map != labels.ignore_label)[:, None]


def compute_dice_loss(
    probabilities: Float32[Tensor, "batch class *space"],
    masks: Bool[Tensor, "batch class *space"],
    valid: Bool[Tensor, "batch 1 *space"] | None,
    *,
    batch_dice: bool,
    part: BatchPart = WHOLE_BATCH,
) -> Float32[Tensor, ""]:
    """-mean of (2I + s) / max(G + P + s, 1e-8) over classes (and samples, unless batch_dice).

    I, P, G: sums of probability in the mask, of probability, and of the mask; s = 1e-5.
    """
    space = tuple(range(2, probabilities.ndim))
    counted = probabilities if valid is None else probabilities * valid
    truth = masks if valid is None else masks & valid
    sums = [(counted * truth).sum(space), counted.sum(space), truth.sum(space, dtype=torch.float32)]
    if batch_dice:
        sums = list(part.add_up(torch.stack([value.sum(0) for value in sums])))
    intersection, predicted, present = sums
    denominator = (present + predicted + SMOOTHING).clamp_min(SMALLEST_DENOMINATOR)
    loss = -((2 * intersection + SMOOTHING) / denominator).mean()
    return loss if batch_dice else part.add_up(loss * part.share)


def compute_cross_entropy(
    logits: Float32[Tensor, "batch output *space"],
    label_map: Int16[Tensor, " batch *space"],
    ignore_label: int | None,
    *,
    part: BatchPart = WHOLE_BATCH,
) -> Float32[Tensor, ""]:
    """Mean over the voxels that are not ignored; 0 if there is none."""
    target = label_map.long()
    if ignore_label is None:
        return part.add_up(_reduce_cross_entropy(logits, target, NO_LABEL, "mean") * part.share)
    total = part.add_up(_reduce_cross_entropy(logits, target, ignore_label, "sum"))
    return total / part.add_up((target != ignore_label).sum()).clamp_min(1)


def _reduce_cross_entropy(
    logits: Tensor, target: Tensor, ignore_label: int, reduction: Literal["mean", "sum"]
) -> Tensor:
    if not torch.are_deterministic_algorithms_enabled():
        return functional.cross_entropy(logits, target, ignore_index=ignore_label, reduction=reduction)
    # On CUDA torch's own sum depends on the order in which threads arrive; that of a tensor does not.
    values = functional.cross_entropy(logits, target, ignore_index=ignore_label, reduction="none")
    return values.mean() if reduction == "mean" else values.sum()


def compute_binary_cross_entropy(
    logits: Float32[Tensor, "batch class *space"],
    masks: Bool[Tensor, "batch class *space"],
    valid: Bool[Tensor, "batch 1 *space"] | None,
    *,
    part: BatchPart = WHOLE_BATCH,
) -> Float32[Tensor, ""]:
    """Mean over regions and the voxels that are not ignored; 0 if there is none.

    nnU-Net, with an ignore label, divides by the voxels alone, so that the term grows with the number of regions. Here
    an ignore label that no voxel carries changes nothing.
    """
    if valid is None:
        return part.add_up(functional.binary_cross_entropy_with_logits(logits, masks.float()) * part.share)
    entropy = functional.binary_cross_entropy_with_logits(logits, masks.float(), reduction="none")
    count = part.add_up(valid.sum()).clamp_min(1) * logits.shape[1]
    return part.add_up((entropy * valid).sum()) / count
