"""What the numbers of a voxel say: its label, or its probabilities."""

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor

from autoseg.labels import LabelScheme


def decide_labels(logits: Float[Tensor, "*space class"], labels: LabelScheme) -> Int16[Tensor, "*space"]:
    """The internal label of every voxel.

    Labels: the class with the highest logit, the lowest of them on a tie. Regions: background, overwritten by each
    region whose probability is above one half (logit above 0), in the order of declaration.
    """
    if not labels.has_regions:
        return find_highest(logits)
    decided = torch.zeros(logits.shape[:-1], dtype=torch.int16, device=logits.device)
    for region, label in zip(logits.unbind(-1), labels.region_write_labels, strict=True):
        decided.masked_fill_(region > 0, label)
    return decided


def compute_probabilities(logits: Float[Tensor, "*space class"], labels: LabelScheme) -> Float[Tensor, "*space class"]:
    """Softmax over the labels, or a sigmoid for each region."""
    return torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, dim=-1)


def decide_from_probabilities(
    probabilities: Float[Tensor, "*space class"], labels: LabelScheme
) -> Int16[Tensor, "*space"]:
    """As `decide_labels`: the highest, or the regions above one half."""
    return decide_labels(probabilities - 0.5 if labels.has_regions else probabilities, labels)


def find_highest(logits: Float[Tensor, "*space class"]) -> Int16[Tensor, "*space"]:
    """The class with the highest number, the lowest of them on a tie."""
    if logits.device.type == "cpu":
        # Several times as fast as torch's, which looks at one number at a time (measured).
        return torch.from_numpy(logits.numpy().argmax(axis=-1).astype(np.int16))
    return logits.max(dim=-1).indices.to(torch.int16)
