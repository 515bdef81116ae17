"""Prediction in a part of an image; everything outside is background."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from autoseg.inference.sliding_window.prediction import FLOAT_BYTES, select_storage_device
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import Box, slice_box

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
