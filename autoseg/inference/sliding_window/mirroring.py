"""Test-time augmentation: averages a network's output over mirrored views of its input."""

from collections.abc import Iterator, Sequence
from itertools import combinations, product

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from autoseg.runtime.cpu_threads import adapt_threads

LEADING_AXES = 1
"""The channel comes before the axes of a patch."""


def list_mirrored_axes(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Lists all subsets of the axes, the empty one (no mirroring) first."""
    for count in range(len(axes) + 1):
        yield from combinations(axes, count)


def predict_mirrored(
    network: nn.Module,
    patches: Float[Tensor, "batch channel *patch"],
    mirror_axes: Sequence[int],
    *,
    inference_batch_size: int,
) -> Float32[Tensor, "batch class ..."]:
    """Averages the logits over all mirrored views (2 ** number of axes), each mirrored back.

    Args:
        network: A network that returns a tuple, the first element of which has the resolution of the input.
        patches: Patches on the network's device.
        mirror_axes: Axes of the patch, 0 is the first one after batch and channel.
        inference_batch_size: Inference batch size, counting every view of a patch.
    """
    views = list(list_mirrored_axes(mirror_axes))
    passes = list(product(views, range(len(patches))))
    total: Tensor | None = None
    for first in range(0, len(passes), inference_batch_size):
        adapt_threads()
        batch = passes[first : first + inference_batch_size]
        outputs = network(torch.stack([flip(patches[index], axes) for axes, index in batch]))[0]
        if total is None:
            total = torch.zeros((len(patches), *outputs.shape[1:]), device=outputs.device)
        for (axes, index), output in zip(batch, outputs, strict=True):
            total[index] += flip(output, axes)
    assert total is not None, "there is no patch"
    return total.div_(len(views))


def flip(patch: Float[Tensor, "channel ..."], axes: Sequence[int]) -> Float[Tensor, "channel ..."]:
    """Reverses the given axes of a patch."""
    return torch.flip(patch, [LEADING_AXES + axis for axis in axes]) if axes else patch
