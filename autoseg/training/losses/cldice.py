"""Soft clDice loss for tubes: Dice of centre lines (Shit et al. 2021)."""

from functools import reduce
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from autoseg.plan.losses import CenterlineDiceTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.dice import compute_class_probabilities
from autoseg.training.losses.targets import Target

SMOOTHING: Final = 1.0  # voxel, as in the authors' implementation
POOLINGS: Final = {2: functional.max_pool2d, 3: functional.max_pool3d}


def compute_cldice(
    term: CenterlineDiceTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes 1 - mean of 2 P S / (P + S) over classes (and samples, unless batch_dice).

    P: share of the predicted skeleton that lies in the mask; S: share of the mask's skeleton that is predicted.
    Background is no class.
    """
    probabilities = compute_class_probabilities(logits, target)
    truth = target.masks.to(probabilities.dtype)
    predicted_lines = compute_soft_skeleton(probabilities, term.skeleton_iterations)
    true_lines = compute_soft_skeleton(truth, term.skeleton_iterations)
    values = (predicted_lines * truth, predicted_lines, true_lines * probabilities, true_lines)
    sums = torch.stack([value.flatten(2).sum(2) for value in values])
    if term.batch_dice:
        sums = part.add_up(sums.sum(1))
    inside, predicted, found, present = sums
    precision, sensitivity = (inside + SMOOTHING) / (predicted + SMOOTHING), (found + SMOOTHING) / (present + SMOOTHING)
    mean = (1 - 2 * precision * sensitivity / (precision + sensitivity)).mean()
    return mean if term.batch_dice else part.add_up(mean * part.share)


def compute_soft_skeleton(
    image: Float[Tensor, "batch class *space"], iterations: int
) -> Float[Tensor, "batch class *space"]:
    """Computes what openings remove from an image and its erosions: the centre lines of what is bright."""
    skeleton = torch.zeros_like(image)
    for _ in range(iterations + 1):
        eroded = _erode(image)
        ridge = functional.relu(image - _dilate(eroded))
        skeleton = skeleton + functional.relu(ridge - skeleton * ridge)
        image = eroded
    return skeleton


def _dilate(image: Tensor) -> Tensor:
    """The maximum over every voxel and all its neighbours."""
    axes = image.ndim - 2
    return POOLINGS[axes](image, (3,) * axes, 1, 1)


def _erode(image: Tensor) -> Tensor:
    """The minimum over every voxel and its neighbours through faces."""
    axes, minima = image.ndim - 2, []
    for chosen in range(axes):
        kernel = tuple(3 if axis == chosen else 1 for axis in range(axes))
        minima.append(-POOLINGS[axes](-image, kernel, 1, tuple(extent // 2 for extent in kernel)))
    return reduce(torch.minimum, minima)
