"""Prediction in a part of an image; everything outside is background."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from autoseg.inference.sliding_window.prediction import FLOAT_BYTES, select_storage_device
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import Box, slice_box
from autoseg.plan.network import DetectorPlan, NetworkPlan

OUTSIDE_LOGIT: Final = -30.0
"""Logit of foreground outside, against 0 of background: a probability of 1e-13, which no average over models lifts."""


def predict_in_box(
    image: Float32[np.ndarray, "channel z y x"],
    box: Box | None,
    predict: Callable[[Tensor], Tensor],
    *,
    labels: LabelScheme,
) -> Float32[Tensor, "class z y x"]:
    """Computes the logits of an image of which only a box is predicted.

    Args:
        image: The whole image.
        box: The box; None for the whole image.
        predict: Computes the logits of the image that it is given.
        labels: They tell which of the output's channels are background.
    """
    if box is None:
        return predict(torch.from_numpy(np.ascontiguousarray(image)))
    inside = (slice(None), *slice_box(box))
    logits = predict(torch.from_numpy(np.ascontiguousarray(image[inside])))
    shape = (len(logits), *image.shape[1:])
    storage = select_storage_device(logits.device, FLOAT_BYTES * shape[0] * image[0].size)
    whole = logits.new_zeros(shape, device=storage)
    first = 0 if labels.has_regions else 1
    whole[first : labels.output_channel_count] = OUTSIDE_LOGIT  # channels after those of the classes stay 0
    whole[inside] = logits.to(storage)
    return whole


def compute_scores(
    place: tuple[slice, slice, slice],
    logits: Float32[Tensor, "output z y x"],
    *,
    labels: LabelScheme,
    network: NetworkPlan,
) -> Float32[np.ndarray, "class part_z part_y part_x"]:
    """Computes the probabilities of all classes in a part of an image: foreground labels, or regions.

    Those of a detector are its scores: its logits are those of its boxes less that of the least score that counts.
    """
    part = logits[(slice(labels.output_channel_count), *place)].float().cpu()
    if isinstance(network, DetectorPlan):
        above = part if labels.has_regions else part[1:] - part[:1]
        return (above + math.log(network.least_score / (1 - network.least_score))).sigmoid().numpy()
    return (part.sigmoid() if labels.has_regions else part.softmax(dim=0)[1:]).numpy()
