"""Averaging a network's output over mirrored views of its input."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

LEADING_AXES = 2
"""Batch and channel come before the axes of the patch."""


def list_mirrored_axes(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All subsets of the axes, the empty one (the plain view) first."""
    for count in range(len(axes) + 1):
        yield from combinations(axes, count)


def predict_mirrored(
    network: nn.Module, patches: Float[Tensor, "batch channel *patch"], mirror_axes: Sequence[int]
) -> Float32[Tensor, "batch class *patch"]:
    """Mean of the logits over all mirrored views (2 ** number of axes), each mirrored back.

    Args:
        network: Returns a tuple whose first element has the resolution of the input.
        patches: On the network's device.
        mirror_axes: Axes of the patch, 0 is the first one after batch and channel.
    """
    views = list(list_mirrored_axes(mirror_axes))
    total: Tensor = network(patches)[0].float()
    for axes in views[1:]:
        dimensions = [LEADING_AXES + axis for axis in axes]
        total = total + torch.flip(network(torch.flip(patches, dimensions))[0], dimensions)
    return total / len(views)
