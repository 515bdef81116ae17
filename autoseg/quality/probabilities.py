"""Features of logits, measured a few rows at a time."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.quality.features import ClassProbabilities

MOST_VALUES: Final = 2**27
"""Logits that are looked at; of more, every second voxel of the longest axes. On two cores these take half a second."""
CHUNK_BYTES: Final = {"cpu": 2**22, "cuda": 2**28}
"""Size of the probabilities that exist at a time, as in restoring the grid of a file."""
FLOAT_BYTES: Final = 4


@torch.inference_mode()
def measure_probabilities(
    logits: Float[Tensor, "output z y x"], image: Float32[np.ndarray, "channel z y x"], labels: LabelScheme
) -> tuple[ClassProbabilities | None, ...]:
    """Measures every class of a label scheme; None where it is predicted nowhere.

    Args:
        logits: Logits on the network's grid, on any device.
        image: The image of the network on the same grid, without channels from a previous stage.
        labels: Label scheme.
    """
    steps = choose_steps(tuple(logits.shape))
    thinned = logits[:, :: steps[0], :: steps[1], :: steps[2]]
    voxels = image[:, :: steps[0], :: steps[1], :: steps[2]]
    outputs = len(logits)
    sums = np.zeros((5 + len(image), outputs))
    for z, rows in _iterate_chunks(tuple(thinned.shape), CHUNK_BYTES.get(logits.device.type, CHUNK_BYTES["cpu"])):
        values = torch.from_numpy(np.ascontiguousarray(voxels[:, z, rows]))
        sums += _sum_up(thinned[:, z, rows].float(), values.to(logits.device), labels)
    first = 0 if labels.has_regions else 1
    return tuple(_describe(sums[:, output]) for output in range(first, outputs))


def average_probabilities(
    of_members: Sequence[Sequence[ClassProbabilities | None]],
) -> tuple[ClassProbabilities | None, ...]:
    """Averages the features of several models; a class that only some of them predict is theirs."""
    return tuple(_average([entry for entry in entries if entry]) for entries in zip(*of_members, strict=True))


def choose_steps(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns the steps of the sampled voxels along z, y and x: powers of two, larger along longer axes."""
    classes, *extents = shape
    steps = [1, 1, 1]
    while classes * np.prod([extent / step for extent, step in zip(extents, steps, strict=True)]) > MOST_VALUES:
        longest = max(range(3), key=lambda axis: extents[axis] / steps[axis])
        steps[longest] *= 2
    return steps[0], steps[1], steps[2]


def _iterate_chunks(shape: tuple[int, ...], chunk_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Yields slices of whole planes, or of rows of one plane where it is larger than a chunk."""
    classes, depth, height, width = shape
    row_bytes = FLOAT_BYTES * classes * width
    planes, rows = max(1, chunk_bytes // (row_bytes * height)), max(1, chunk_bytes // row_bytes)
    for z in range(0, depth, planes):
        for y in range(0, height, rows):
            yield slice(z, z + planes), slice(y, y + rows)


def _sum_up(
    logits: Float32[Tensor, "output z y x"], values: Float32[Tensor, "channel z y x"], labels: LabelScheme
) -> Float64[np.ndarray, "sum output"]:
    """Sums up predicted voxels, their and all probabilities, both uncertainties and intensities of each output."""
    if labels.has_regions:
        probabilities = torch.sigmoid(logits)
        is_inside = (logits > 0).float()
        predicted = is_inside.sum((1, 2, 3))
        inside = (probabilities * is_inside).sum((1, 2, 3))
        intensities = torch.einsum("czyx,ozyx->co", values, is_inside)
    else:
        probabilities = torch.softmax(logits, 0)
        highest, label = probabilities.flatten(1).max(0)
        predicted = torch.bincount(label, minlength=len(logits)).float()
        inside = torch.bincount(label, weights=highest, minlength=len(logits))
        of_channels = [torch.bincount(label, weights=one.flatten(), minlength=len(logits)) for one in values]
        intensities = torch.stack(of_channels)
    expected = probabilities.sum((1, 2, 3))
    uncertain = expected - probabilities.square().sum((1, 2, 3))
    at_border = uncertain if labels.has_regions else torch.einsum("ozyx,zyx->o", probabilities, probabilities[0])
    rows = torch.stack((predicted, inside, expected, at_border, uncertain - at_border))
    return torch.cat((rows, intensities.float())).double().cpu().numpy()


def _describe(sums: Float64[np.ndarray, " sum"]) -> ClassProbabilities | None:
    predicted, inside, expected, at_border, between, *intensities = sums.tolist()
    if predicted == 0:
        return None
    return ClassProbabilities(
        soft_dice=2 * inside / (expected + predicted),
        border_uncertainty=at_border / predicted,
        class_uncertainty=max(0.0, between / predicted),
        expected_fraction=expected / predicted,
        intensities=tuple(total / predicted for total in intensities),
    )


def _average(entries: Sequence[ClassProbabilities]) -> ClassProbabilities | None:
    if not entries:
        return None
    return ClassProbabilities(
        soft_dice=float(np.mean([entry.soft_dice for entry in entries])),
        border_uncertainty=float(np.mean([entry.border_uncertainty for entry in entries])),
        class_uncertainty=float(np.mean([entry.class_uncertainty for entry in entries])),
        expected_fraction=float(np.mean([entry.expected_fraction for entry in entries])),
        intensities=tuple(np.mean([entry.intensities for entry in entries], axis=0).tolist()),
    )
