"""Changes of intensities, of all patches of a batch that need them at once.

An image is seen as rows: the channels of all samples, each changed by its own parameters. Everything happens in place.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from autoseg.training.device.axis_matrices import (
    apply_along_axis,
    compute_blur_matrices,
    compute_low_resolution_matrices,
)
from autoseg.training.device.counter_random import draw_normal
from autoseg.training.device.parameters import PatchParameters
from autoseg.training.device.transfer import copy_to_device

# As in batchgenerators: they keep constant channels from a division by zero.
RANGE_EPSILON: Final = 1e-7
SPREAD_EPSILON: Final = 1e-8

Image = Float32[Tensor, "batch channel *space"]
Rows = Float32[Tensor, " row *space"]


def change_intensities(image: Image, parameters: PatchParameters, *, is_slice_wise: bool) -> None:
    """Applies all changes in the order of nnU-Net's pipeline; `image` must be contiguous."""
    rows = image.view(-1, *image.shape[2:])
    add_noise(image, parameters)
    blur(rows, parameters.blur_sigma_voxels.reshape(len(rows), -1))
    brighten(rows, parameters.brightness.ravel())
    spread_contrast(rows, parameters.contrast.ravel())
    coarsen(rows, parameters.zoom.ravel(), first_axis=1 if is_slice_wise else 0)
    bend_inverted(rows, parameters.inverted_gamma.ravel())
    bend(rows, parameters.gamma.ravel())


def add_noise(image: Image, parameters: PatchParameters) -> None:
    """Adds independent normal noise to every voxel and channel, of one spread per sample."""

    def change(samples: Tensor, changed: np.ndarray) -> Tensor:
        keys = copy_to_device(parameters.noise_key[changed], image.device)
        noise = draw_normal(keys, samples[0].numel()).view_as(samples)
        return samples + noise * _to_column(parameters.noise_std[changed], samples)

    _change_some(image, parameters.noise_std > 0, change)


def blur(rows: Rows, sigmas_voxels: np.ndarray) -> None:
    """Gaussian blur with a standard deviation per row and axis."""

    def change(some: Tensor, changed: np.ndarray) -> Tensor:
        largest = float(sigmas_voxels[changed].max())
        for axis, extent in enumerate(some.shape[1:]):
            sigmas = copy_to_device(sigmas_voxels[changed, axis].astype(np.float32), rows.device)
            some = apply_along_axis(some, compute_blur_matrices(sigmas, extent, largest_sigma_voxels=largest), axis)
        return some

    _change_some(rows, sigmas_voxels.max(axis=1) > 0, change)


def brighten(rows: Rows, factors: np.ndarray) -> None:
    """Multiplies."""
    _change_some(rows, factors != 1, lambda some, changed: some * _to_column(factors[changed], some))


def spread_contrast(rows: Rows, factors: np.ndarray) -> None:
    """Spreads the values about their mean and keeps them within their former range."""

    def change(some: Tensor, changed: np.ndarray) -> Tensor:
        lowest, highest = _find_limits(some)
        mean, _ = _measure_moments(some)
        return ((some - mean) * _to_column(factors[changed], some) + mean).clamp(lowest, highest)

    _change_some(rows, factors != 1, change)


def coarsen(rows: Rows, zooms: np.ndarray, *, first_axis: int) -> None:
    """Simulates a coarser resolution along `first_axis` and the following axes."""

    def change(some: Tensor, changed: np.ndarray) -> Tensor:
        for axis in range(first_axis, some.ndim - 1):
            matrices = compute_low_resolution_matrices(zooms[changed], some.shape[axis + 1], rows.device)
            some = apply_along_axis(some, matrices, axis)
        return some

    _change_some(rows, zooms != 1, change)


def bend(rows: Rows, exponents: np.ndarray) -> None:
    """Raises the values, brought to 0 to 1, to a power, then restores mean and spread."""
    _change_some(rows, exponents != 1, lambda some, changed: _bend(some, _to_column(exponents[changed], some)))


def bend_inverted(rows: Rows, exponents: np.ndarray) -> None:
    """The same for the negative image."""
    _change_some(rows, exponents != 1, lambda some, changed: -_bend(-some, _to_column(exponents[changed], some)))


def _bend(some: Rows, exponents: Tensor) -> Rows:
    mean, spread = _measure_moments(some)
    lowest, highest = _find_limits(some)
    extent = highest - lowest + RANGE_EPSILON
    bent = ((some - lowest) / extent) ** exponents * extent + lowest
    bent_mean, bent_spread = _measure_moments(bent)
    return (bent - bent_mean) / (bent_spread + SPREAD_EPSILON) * spread + mean


def _change_some(
    rows: Float32[Tensor, " row *rest"], is_changed: np.ndarray, change: Callable[[Tensor, np.ndarray], Tensor]
) -> None:
    """Replaces some rows, named to `change` by their numbers; the decision never waits for the device."""
    changed = np.flatnonzero(is_changed)
    if len(changed) == 0:
        return
    index = copy_to_device(changed, rows.device)
    rows.index_copy_(0, index, change(rows.index_select(0, index), changed))


def _to_column(values: np.ndarray, rows: Tensor) -> Tensor:
    """One value for each row, to be broadcast over it."""
    return copy_to_device(values.astype(np.float32), rows.device).view(-1, *(1,) * (rows.ndim - 1))


def _measure_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the population) of each row."""
    spread, mean = torch.std_mean(rows, dim=tuple(range(1, rows.ndim)), correction=0, keepdim=True)
    return mean, spread


def _find_limits(rows: Tensor) -> tuple[Tensor, Tensor]:
    axes = tuple(range(1, rows.ndim))
    return rows.amin(axes, keepdim=True), rows.amax(axes, keepdim=True)
