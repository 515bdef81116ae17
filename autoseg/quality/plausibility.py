"""Plausibility of a predicted label map: how well a label autoencoder, which knows those of training, reconstructs it.

What the latents cannot describe was not among the label maps that the autoencoder learned from.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from autoseg.geometry import IntTriple, add_slice_axis, list_plane_order
from autoseg.labels import LabelScheme
from autoseg.plan.document import ConfigurationPlan

SLICES_AT_ONCE: Final = 8
"""Slices of a 2D autoencoder that it reconstructs together."""

Window = tuple[tuple[slice, ...], tuple[slice, ...]]
"""A place in the volume, and the part of it that no other window counts."""


@torch.inference_mode()
def measure_plausibility(
    logits: Float[Tensor, "output z y x"],
    autoencoder: nn.Module,
    device: torch.device,
    *,
    configuration: ConfigurationPlan,
    labels: LabelScheme,
) -> float | None:
    """Measures the mean Dice between a predicted label map and its reconstruction, over the classes that it holds.

    The autoencoder sees windows of the size of a patch, of which each voxel counts once, as slices across every axis
    that the network sees; windows without any class are left out. No more than one of them is in memory.

    Args:
        logits: Logits on the network's grid, on any device.
        autoencoder: It returns the logits of label maps, one channel per output, first.
        device: Device of the autoencoder, to which windows are moved.
        configuration: Plan of the network.
        labels: Label scheme.

    Returns:
        The Dice; None where no class is predicted.
    """
    counts = torch.zeros((3, len(labels.class_names)), dtype=torch.int64, device=device)
    for axis in configuration.plane_axes:
        order = list_plane_order(axis)
        seen = logits.permute(0, *(1 + place for place in order))
        patch = add_slice_axis(configuration.patch_voxels, min(SLICES_AT_ONCE, seen.shape[1]))
        for place, counted in list_windows(tuple(seen.shape[1:]), patch):
            window = _pad(_find_classes(seen[(slice(None), *place)].to(device), labels), patch)
            inside = (slice(None), *counted)
            if window[inside].any():
                found = _reconstruct(window, autoencoder, configuration=configuration, labels=labels)
                counts += _count(window[inside], found[inside])
    return _compute_mean_dice(counts.cpu().numpy())


def average_known(values: Sequence[float | None]) -> float | None:
    """Averages the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def list_windows(shape: tuple[int, ...], patch: IntTriple) -> Iterator[Window]:
    """Yields windows that lie inside the volume wherever it is as long as they, with the part that each counts.

    The last window along an axis is moved back, and counts only what the one before it does not hold. Where the volume
    is shorter than a window, only the volume counts.
    """
    axes = [
        [_place(first, extent, along) for first in range(0, extent, along)]
        for extent, along in zip(shape, patch, strict=True)
    ]
    for parts in product(*axes):
        yield tuple(place for place, _ in parts), tuple(counted for _, counted in parts)


def _place(first: int, extent: int, along: int) -> tuple[slice, slice]:
    start = max(0, min(first, extent - along))
    end = min(start + along, extent)
    return slice(start, end), slice(first - start, end - start)


def _pad(masks: Bool[Tensor, "class z y x"], patch: IntTriple) -> Bool[Tensor, "class patch_z patch_y patch_x"]:
    """Adds background at the end of short axes."""
    missing = [(0, along - extent) for extent, along in zip(masks.shape[1:], patch, strict=True)]
    return functional.pad(masks, [count for pair in reversed(missing) for count in pair])


def _find_classes(logits: Float[Tensor, "output z y x"], labels: LabelScheme) -> Bool[Tensor, "class z y x"]:
    """Finds the voxels of every class."""
    if labels.has_regions:
        return logits > 0
    found = logits.argmax(0)
    return torch.stack([found == label for label in range(1, len(logits))])


def _reconstruct(
    masks: Bool[Tensor, "class z y x"], autoencoder: nn.Module, *, configuration: ConfigurationPlan, labels: LabelScheme
) -> Bool[Tensor, "class z y x"]:
    """Encodes and decodes a window; where the network sees one class at a time, each class by itself."""
    own = configuration.choose_network_labels(labels)
    groups = torch.split(masks, 1) if configuration.is_class_by_class else (masks,)
    return torch.cat([_reconstruct_group(group, autoencoder, configuration.dimensions, own) for group in groups])


def _reconstruct_group(
    masks: Bool[Tensor, "class z y x"], autoencoder: nn.Module, dimensions: int, labels: LabelScheme
) -> Bool[Tensor, "class z y x"]:
    outputs = masks if labels.has_regions else torch.cat((~masks.any(0, keepdim=True), masks))
    batch = outputs.transpose(0, 1) if dimensions == 2 else outputs[None]
    logits: Tensor = autoencoder(batch.float())[0]
    return _find_classes(logits.transpose(0, 1) if dimensions == 2 else logits[0], labels)


def _count(predicted: Bool[Tensor, "class z y x"], found: Bool[Tensor, "class z y x"]) -> Int64[Tensor, "3 class"]:
    """Counts the voxels of both, of the prediction and of its reconstruction for each class."""
    return torch.stack([part.sum((1, 2, 3)) for part in (predicted & found, predicted, found)])


def _compute_mean_dice(counts: Int64[np.ndarray, "3 class"]) -> float | None:
    both, predicted, found = counts[:, counts[1] > 0]
    return float(np.mean(2 * both / (predicted + found))) if len(both) else None
