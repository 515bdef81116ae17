"""Cross entropy over labels, binary cross entropy over regions."""

from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from autoseg.plan.losses import CrossEntropyTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.targets import Target

NO_LABEL: Final = -100  # torch's name for no voxel at all


def compute_cross_entropy(
    term: CrossEntropyTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes the mean over the voxels that are not ignored (and over regions, if any); 0 without such voxels."""
    del term
    return (_compute_binary if target.labels.has_regions else _compute_categorical)(logits, target, part)


def _compute_categorical(logits: Tensor, target: Target, part: BatchPart) -> Tensor:
    wanted, ignore_label = target.label_map.long(), target.labels.ignore_label
    if ignore_label is None:
        return part.add_up(_reduce_cross_entropy(logits, wanted, NO_LABEL, "mean") * part.share)
    total = part.add_up(_reduce_cross_entropy(logits, wanted, ignore_label, "sum"))
    return total / part.add_up((wanted != ignore_label).sum()).clamp_min(1)


def _reduce_cross_entropy(
    logits: Tensor, wanted: Tensor, ignore_label: int, reduction: Literal["mean", "sum"]
) -> Tensor:
    if not torch.are_deterministic_algorithms_enabled():
        return functional.cross_entropy(logits, wanted, ignore_index=ignore_label, reduction=reduction)
    # On CUDA torch's own sum depends on the order in which threads arrive; that of a tensor does not.
    values = functional.cross_entropy(logits, wanted, ignore_index=ignore_label, reduction="none")
    return values.mean() if reduction == "mean" else values.sum()


def _compute_binary(logits: Tensor, target: Target, part: BatchPart) -> Tensor:
    """nnU-Net, with an ignore label, divides by the voxels alone, so that the term grows with the number of regions.

    Here an ignore label that no voxel carries changes nothing.
    """
    masks, valid = target.masks, target.valid
    if valid is None:
        return part.add_up(functional.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype)) * part.share)
    entropy = functional.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype), reduction="none")
    count = part.add_up(valid.sum()).clamp_min(1) * logits.shape[1]
    return part.add_up((entropy * valid).sum()) / count
