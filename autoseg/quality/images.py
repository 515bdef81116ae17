"""Features of a preprocessed image: its grid, its intensities, its sharpness, and what lies where."""

from itertools import zip_longest
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from autoseg.preprocessing.case import CaseGeometry
from autoseg.quality.features import ChannelFeatures, ImageFeatures, Triple

PERCENTILES: Final = (1, 25, 50, 75, 99)
MOST_SAMPLES: Final = 2**18
"""Voxels of a channel that percentiles and extremes are computed of."""
MOST_PLANES: Final = 16
"""Planes across the first axis in which neighbours are compared."""
BLOCKS: Final = 8
"""Blocks of the thumbnail along each axis."""
DIGITS: Final = 3
SMALLEST: Final = 1e-6


def measure_image(image: Float32[np.ndarray, "channel z y x"], geometry: CaseGeometry) -> ImageFeatures:
    """Measures a preprocessed image without channels from a previous stage; takes milliseconds, however large it is.

    Args:
        image: Cropped, normalized and resampled image in plan axes.
        geometry: Its geometry.
    """
    file_spacing_mm = geometry.cropped_spacing_mm
    shape = geometry.uncropped_shape_voxels
    return ImageFeatures(
        spacing_mm=file_spacing_mm,
        extent_mm=tuple(count * step for count, step in zip(shape, file_spacing_mm, strict=True)),
        tilt_degrees=_measure_tilt(geometry.grid.direction) if geometry.grid.is_oriented else 0.0,
        channels=tuple(
            _measure_channel(channel, scale)
            for channel, scale in zip_longest(image, geometry.intensity_scales[: len(image)])
        ),
    )


def compute_likeness(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Computes the correlation of two thumbnails; 0 if one of them shows nothing."""
    a, b = np.asarray(first), np.asarray(second)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > SMALLEST else 0.0


def _measure_tilt(direction: tuple[Triple, Triple, Triple]) -> float:
    nearest = np.abs(np.asarray(direction)).max(axis=1).clip(0, 1)
    return float(np.degrees(np.arccos(nearest.min())))


def _measure_channel(channel: Float32[np.ndarray, "z y x"], scale: float | None) -> ChannelFeatures:
    step = max(1, round((channel.size / MOST_SAMPLES) ** (1 / 3)))
    sample = channel[::step, ::step, ::step]
    low, *_, high = found = np.percentile(sample, PERCENTILES).tolist()
    deviation = max(float(sample.std()), SMALLEST)
    first, second = _measure_differences(channel)
    return ChannelFeatures(
        percentiles=tuple(found),
        contrast=first / deviation,
        roughness=second / max(first, SMALLEST),
        floor_fraction=float((sample <= min(low, high) + SMALLEST).mean()),
        thumbnail=_draw_thumbnail(channel),
        scale=scale,
        extremes=(float(sample.min()), float(sample.max())),
    )


def _measure_differences(channel: Float32[np.ndarray, "z y x"]) -> tuple[float, float]:
    """Measures the mean absolute first and second difference of neighbours in plane."""
    planes = channel[:: max(1, len(channel) // MOST_PLANES)]
    firsts, seconds = [], []
    for axis in (1, 2):
        if planes.shape[axis] > 2:
            difference = np.diff(planes, axis=axis)
            firsts.append(float(np.abs(difference).mean()))
            seconds.append(float(np.abs(np.diff(difference, axis=axis)).mean()))
    return (float(np.mean(firsts)), float(np.mean(seconds))) if firsts else (0.0, 0.0)


def _draw_thumbnail(channel: Float32[np.ndarray, "z y x"]) -> tuple[float, ...]:
    step = max(1, round((channel.size / MOST_SAMPLES) ** (1 / 3)))
    sample = torch.from_numpy(np.ascontiguousarray(channel[::step, ::step, ::step]))
    means = nn.functional.adaptive_avg_pool3d(sample[None], BLOCKS).flatten()
    standardized = (means - means.mean()) / max(float(means.std()), SMALLEST)
    return tuple(round(value, DIGITS) for value in standardized.tolist())
