"""Test-time augmentation: averages a network's output over mirrored views of its input."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, product
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.plan.training import TrainingPlan
from autoseg.runtime.cpu_threads import adapt_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelExchange:
    """Channels of the output that mirroring along one axis exchanges, such as those of the left and right kidney.

    Attributes:
        axis: Axis of the patch.
        order: The channel that each channel becomes.
    """

    axis: int
    order: tuple[int, ...]


LEADING_AXES = 2
"""Batch and channel come before the axes of a patch."""


def list_mirrored_axes(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Lists all subsets of the axes, the empty one (no mirroring) first."""
    for count in range(len(axes) + 1):
        yield from combinations(axes, count)


def predict_mirrored(
    network: Callable[[Tensor], Any],
    patches: Float[Tensor, "batch channel *patch"],
    mirror_axes: Sequence[int],
    *,
    inference_batch_size: int,
    exchange: ChannelExchange | None = None,
) -> Float32[Tensor, "batch class ..."]:
    """Averages the logits over all mirrored views (2 ** number of axes), each mirrored back.

    Args:
        network: A network that returns a tuple, the first element of which has the resolution of the input.
        patches: Patches on the network's device.
        mirror_axes: Axes of the patch, 0 is the first one after batch and channel.
        inference_batch_size: Inference batch size, counting every view of a patch.
        exchange: Channels that are exchanged in views that are mirrored along its axis.
    """
    views = list(list_mirrored_axes(mirror_axes))
    passes = list(product(views, range(len(patches))))
    total: Tensor | None = None
    for first in range(0, len(passes), inference_batch_size):
        adapt_threads()
        runs = _list_runs(passes[first : first + inference_batch_size])
        outputs = network(torch.cat([flip(patches[run], axes) for axes, run in runs]))[0]
        if total is None:
            total = torch.zeros((len(patches), *outputs.shape[1:]), device=outputs.device)
        parts = outputs.split([run.stop - run.start for _, run in runs])
        for (axes, run), part in zip(runs, parts, strict=True):
            total[run].add_(restore_views(part, axes, exchange))
    assert total is not None, "there is no patch"
    return total.div_(len(views))


def find_channel_exchange(training: TrainingPlan, labels: LabelScheme) -> ChannelExchange | None:
    """Returns the channels that mirroring exchanges by the plan; None if it exchanges none."""
    if training.mirror_pairs is None:
        return None
    order = labels.exchange_outputs(training.mirror_pairs.pairs)
    assert order is not None, "the plan was checked"
    return ChannelExchange(axis=training.mirror_pairs.axis, order=order)


def _list_runs(passes: Sequence[tuple[tuple[int, ...], int]]) -> list[tuple[tuple[int, ...], slice]]:
    """Lists neighbouring passes of the same view, which are mirrored together: the axes, and which patches."""
    runs = [(axes, [index for _, index in run]) for axes, run in groupby(passes, key=lambda entry: entry[0])]
    return [(axes, slice(indices[0], indices[-1] + 1)) for axes, indices in runs]


def restore_views(
    outputs: Float[Tensor, "patch channel ..."], axes: Sequence[int], exchange: ChannelExchange | None
) -> Float[Tensor, "patch channel ..."]:
    """Mirrors the outputs for mirrored views back, with the channels that belong to the other side.

    Channels after those of the classes, such as attention maps, stay where they are.
    """
    restored = flip(outputs, axes)
    if exchange is None or exchange.axis not in axes:
        return restored
    # A list of channels as an index would be copied to the device each time.
    order = (*exchange.order, *range(len(exchange.order), restored.shape[1]))
    return torch.stack([restored[:, channel] for channel in order], dim=1)


def flip(patches: Float[Tensor, "patch channel ..."], axes: Sequence[int]) -> Float[Tensor, "patch channel ..."]:
    """Reverses the given axes of patches."""
    return torch.flip(patches, [LEADING_AXES + axis for axis in axes]) if axes else patches
