"""Decoding of logits into labels and probabilities."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16
from torch import Tensor

from autoseg.labels import LabelScheme


def decode_labels(logits: Float[Tensor, "*space class"], labels: LabelScheme) -> Int16[Tensor, "*space"]:
    """Decodes logits to the internal label of every voxel.

    Labels: the class with the highest logit, the lowest of them on a tie. Regions: background, overwritten by each
    region whose probability is above one half (logit above 0), in the order of declaration.
    """
    if not labels.has_regions:
        return compute_argmax(logits)
    return compose_regions((region > 0 for region in logits.unbind(-1)), labels)


def compose_regions(inside: Iterable[Bool[Tensor, "*space"]], labels: LabelScheme) -> Int16[Tensor, "*space"]:
    """Writes the label of each region over the background in the order of declaration."""
    decided: Tensor | None = None
    for is_inside, label in zip(inside, labels.region_write_labels, strict=True):
        decided = torch.zeros_like(is_inside, dtype=torch.int16) if decided is None else decided
        decided.masked_fill_(is_inside, label)
    assert decided is not None, "there is at least one region"
    return decided


def compute_probabilities(logits: Float[Tensor, "*space class"], labels: LabelScheme) -> Float[Tensor, "*space class"]:
    """Computes the softmax over the labels, or the sigmoid of each region."""
    return torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, dim=-1)


def decode_probabilities(probabilities: Float[Tensor, "*space class"], labels: LabelScheme) -> Int16[Tensor, "*space"]:
    """Decodes probabilities like `decode_labels`: the highest class, or the regions above one half."""
    return decode_labels(probabilities - 0.5 if labels.has_regions else probabilities, labels)


def compute_argmax(logits: Float[Tensor, "*space class"]) -> Int16[Tensor, "*space"]:
    """Computes the class with the highest value, the first of them on a tie."""
    if logits.device.type == "cpu":
        # Several times as fast as torch's, which is not vectorized (measured).
        return torch.from_numpy(logits.numpy().argmax(axis=-1).astype(np.int16))
    return logits.max(dim=-1).indices.to(torch.int16)
