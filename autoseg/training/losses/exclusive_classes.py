"""Probabilities and truth in groups of classes of which exactly one is true at every voxel.

Background and labels are one group. Of regions every one is a group of two classes: outside and inside.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from autoseg.plan.losses import ClassWeightedTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.targets import Target, place_table


def compute_log_probabilities(
    logits: Float[Tensor, "batch output *space"], target: Target
) -> Float[Tensor, "batch group class *space"]:
    """Computes the logarithm of the probability of every class of every group."""
    if target.labels.has_regions:
        return torch.stack([functional.logsigmoid(-logits), functional.logsigmoid(logits)], dim=2)
    return logits.log_softmax(1)[:, None]


def find_true_classes(target: Target) -> Int64[Tensor, "batch group *space"]:
    """Finds the index of the true class in each group; 0 where a voxel is ignored."""
    if target.labels.has_regions:
        return target.masks.long()
    true = target.label_map.long()[:, None]
    return true if target.valid is None else true * target.valid


def build_class_masks(true_classes: Int64[Tensor, "batch group *space"], count: int) -> Bool[Tensor, "batch ..."]:
    """Builds the masks of all classes of the groups, on an axis after that of the groups."""
    return torch.stack([true_classes == index for index in range(count)], dim=2)


def compute_voxel_entropies(
    logits: Float[Tensor, "batch output *space"], target: Target
) -> Float[Tensor, "batch group *space"]:
    """Computes the negative logarithm of the probability of the true class."""
    log_probabilities = compute_log_probabilities(logits, target)
    return -log_probabilities.gather(2, find_true_classes(target)[:, :, None])[:, :, 0]


def find_voxel_weights(term: ClassWeightedTerm, target: Target) -> Float[Tensor, "batch group *space"]:
    """Finds the weight of the true class of every voxel, in float32."""
    true = find_true_classes(target)
    if target.labels.has_regions:
        table = place_table(
            tuple(zip(term.background_weights, term.class_weights, strict=True)), true.device, torch.float32
        )
    else:
        table = place_table(((*term.background_weights, *term.class_weights),), true.device, torch.float32)
    return torch.stack([row[true[:, group]] for group, row in enumerate(table)], dim=1)


def sum_class_overlaps(
    logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart, *, batch_dice: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, for every class of every group of exclusive classes, probability in the mask, probability, and the mask.

    The sums are over the valid voxels of every sample, or of the whole batch.
    """
    probabilities = compute_log_probabilities(logits, target).exp()
    masks = build_class_masks(find_true_classes(target), probabilities.shape[2])
    if target.valid is not None:
        probabilities, masks = probabilities * target.valid[:, None], masks & target.valid[:, None]
    space = tuple(range(3, probabilities.ndim))
    sums = [(probabilities * masks).sum(space), probabilities.sum(space), masks.sum(space, dtype=torch.float32)]
    if batch_dice:
        sums = list(part.add_up(torch.stack([value.sum(0) for value in sums])))
    intersection, predicted, present = sums
    return intersection, predicted, present


def average_over_voxels(
    values: Float[Tensor, "batch group *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes the mean over groups and all voxels of the batch that are not ignored; 0 without such voxels."""
    if target.valid is None:
        return part.add_up(values.mean() * part.share)
    count = part.add_up(target.valid.sum()).clamp_min(1) * values.shape[1]
    return part.add_up(values.masked_fill(~target.valid, 0).sum()) / count
