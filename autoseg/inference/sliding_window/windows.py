"""Positions and blending weights of the windows of sliding-window inference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Final

import numpy as np
from jaxtyping import Float32

from autoseg.geometry import IntTriple, add_slice_axis, list_plane_order
from autoseg.inference.options import PredictionOptions
from autoseg.plan.document import ConfigurationPlan

Window = tuple[int, ...]
"""A window as indices into the starts of every axis."""
Division = tuple[tuple[int, ...], tuple[int, int]]
"""First voxels of the windows along an axis, and the voxels that are missing before and after it."""

SIGMA_FRACTION: Final = 1 / 8
"""Standard deviation of the Gaussian as a fraction of the patch (nnU-Net, Isensee et al. 2021, supplement)."""


def compute_window_starts(extent_voxels: int, patch_voxels: int, step_fraction: float) -> tuple[int, ...]:
    """Computes the first voxels of evenly spaced windows along an axis, at most `step_fraction` of a patch apart.

    An axis that is not longer than the patch gets one window (the caller pads it). Halves are rounded to the even
    voxel, as the reference does.
    """
    span = extent_voxels - patch_voxels
    if span <= 0:
        return (0,)
    step_voxels = max(1.0, patch_voxels * step_fraction)  # windows less than a voxel apart would be the same window
    intervals = math.ceil(span / step_voxels)
    return tuple(round(index * (span / intervals)) for index in range(intervals + 1))


def compute_aligned_starts(
    extent_voxels: int, window_voxels: int, step_fraction: float, divisor: int
) -> tuple[int, ...]:
    """Computes the first voxels of windows that begin at multiples of a divisor, at most `step_fraction` of a window
    apart where that is not less than the divisor. The last one hangs over the end by less than the divisor."""
    span = -(-max(0, extent_voxels - window_voxels) // divisor)  # in divisors
    intervals = max(1, math.ceil(span / max(1, int(window_voxels * step_fraction) // divisor)))
    return tuple(round(index * span / intervals) * divisor for index in range(intervals + 1 if span else 1))


def compute_gaussian_weights(patch_voxels: int) -> Float32[np.ndarray, " patch"]:
    """Computes the weights of a patch along one axis; the weight of a voxel is the product over the axes.

    The maximum, 1, is at `patch_voxels // 2`, which is where the reference places it. No weight is zero: the ends of
    a patch lie four standard deviations out, so the smallest is exp(-8) = 3e-4 per axis.
    """
    offsets = np.arange(patch_voxels) - patch_voxels // 2
    sigma = patch_voxels * SIGMA_FRACTION
    return np.exp(-0.5 * (offsets / sigma) ** 2).astype(np.float32)


def compute_blending_weights(starts: Sequence[int], patch_voxels: int) -> Float32[np.ndarray, "window patch"]:
    """Computes the share of each window along one axis; the shares of all windows add up to 1 in every voxel.

    Windows form a grid and the Gaussian is separable, so the weighted mean over all windows,
    sum(w * logits) / sum(w), is the sum of logits times one such share per axis: no volume of weights, no division.
    A voxel that only one window covers has the share 1 exactly. The reference keeps the two sums as half floats, in
    which the weights of patch corners vanish: there it is off by up to 0.4 logits, which is not reproduced here.
    """
    weights = compute_gaussian_weights(patch_voxels).astype(np.float64)
    total = np.zeros(max(starts) + patch_voxels)
    for start in starts:
        total[start : start + patch_voxels] += weights
    shares = [weights / total[start : start + patch_voxels] for start in starts]
    return np.stack(shares).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlan:
    """Division of a volume into windows.

    Attributes:
        patch_voxels: Extent of the network's input along the three axes of the volume (1 along the first for 2D
            networks).
        margin_voxels: Voxels by which the network's output, a window, is smaller at either end.
        padding_voxels: Voxels before and after each axis of the volume, so that the windows fit.
        starts: First voxels of the windows, per axis of the padded volume.
    """

    patch_voxels: IntTriple
    margin_voxels: IntTriple
    padding_voxels: tuple[tuple[int, int], ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def window_voxels(self) -> tuple[int, ...]:
        """Extent of a window: of the network's output."""
        return tuple(patch - 2 * margin for patch, margin in zip(self.patch_voxels, self.margin_voxels, strict=True))

    @property
    def image_padding_voxels(self) -> tuple[tuple[int, int], ...]:
        """Voxels before and after each axis of the image, so that the patches of all windows fit."""
        axes = zip(self.padding_voxels, self.margin_voxels, strict=True)
        return tuple((below + margin, above + margin) for (below, above), margin in axes)

    @property
    def overlaps(self) -> bool:
        """Returns whether some voxel lies in more than one window."""
        axes = zip(self.starts, self.window_voxels, strict=True)
        return any(after - before < extent for starts, extent in axes for before, after in pairwise(starts))

    @property
    def windows(self) -> list[Window]:
        """All windows as indices into `starts`; the last axis varies fastest."""
        return list(product(*(range(len(starts)) for starts in self.starts)))

    def locate(self, window: Window) -> tuple[slice, ...]:
        """Returns the slices of a window in the padded volume, for all channels."""
        return self._locate(window, self.window_voxels)

    def locate_patch(self, window: Window) -> tuple[slice, ...]:
        """Returns the slices of the network's input for a window in the padded image, for all channels."""
        return self._locate(window, self.patch_voxels)

    def _locate(self, window: Window, extents_voxels: Sequence[int]) -> tuple[slice, ...]:
        corner = [starts[index] for starts, index in zip(self.starts, window, strict=True)]
        inside = (slice(start, start + extent) for start, extent in zip(corner, extents_voxels, strict=True))
        return (slice(None), *inside)


def count_windows(shape_voxels: Sequence[int], configuration: ConfigurationPlan, step_fraction: float) -> int:
    """Counts the windows of a volume, across all axes across which slices are seen."""
    planes = (order_extents(shape_voxels, axis) for axis in configuration.plane_axes)
    return sum(count_plane_windows(extents, configuration, step_fraction) for extents in planes)


def count_plane_windows(extents_voxels: Sequence[int], configuration: ConfigurationPlan, step_fraction: float) -> int:
    """Counts the windows of a volume whose slices are seen across its first axis."""
    return math.prod(len(starts) for starts in compute_window_plan(extents_voxels, configuration, step_fraction).starts)


def order_extents(shape_voxels: Sequence[int], axis: int) -> tuple[int, ...]:
    """Returns the extents of a volume as its planes across an axis are seen."""
    return tuple(shape_voxels[other] for other in list_plane_order(axis))


def count_views(configuration: ConfigurationPlan) -> int:
    """Counts the mirrored views of a window, and the window itself."""
    views: int = 2 ** len(configuration.training.mirror_axes)
    return views


def count_passes(shape_voxels: Sequence[int], configuration: ConfigurationPlan, options: PredictionOptions) -> int:
    """Counts the patches that one network computes for a volume: its windows, with mirrored views if there are any."""
    views = count_views(configuration) if options.mirroring else 1
    return count_windows(shape_voxels, configuration, options.step_fraction) * views


def compute_window_plan(
    shape_voxels: Sequence[int], configuration: ConfigurationPlan, step_fraction: float
) -> WindowPlan:
    """Divides a volume into windows; an axis shorter than a window is padded, with the smaller half in front.

    A patch of two axes becomes one slice thick, so that every slice has its own windows; neighbouring slices that the
    network gets as well are a margin of it. Windows of a network with
    margins begin at multiples of its divisors, also in the volume, which is padded in front by such a multiple: so the
    network reduces the resolution of all patches on one grid, and its logits of a voxel do not depend on the window.
    """
    network, patch = configuration.network, add_slice_axis(configuration.sample_voxels, 1)
    margin = configuration.sample_margin_voxels
    windows = [extent - 2 * beyond for extent, beyond in zip(patch, margin, strict=True)]
    axes = zip(shape_voxels, windows, add_slice_axis(network.patch_divisors, 1), strict=True)
    divide = _divide_aligned if any(network.margin_voxels) else _divide_evenly
    starts, padding = zip(
        *(divide(extent, window, step_fraction, divisor) for extent, window, divisor in axes), strict=True
    )
    return WindowPlan(patch_voxels=patch, margin_voxels=margin, padding_voxels=padding, starts=starts)


def _divide_evenly(extent: int, window: int, step_fraction: float, divisor: int) -> Division:
    del divisor
    missing = max(0, window - extent)
    return compute_window_starts(extent, window, step_fraction), (missing // 2, missing - missing // 2)


def _divide_aligned(extent: int, window: int, step_fraction: float, divisor: int) -> Division:
    starts = compute_aligned_starts(extent, window, step_fraction, divisor)
    missing = starts[-1] + window - extent
    before = missing // 2 // divisor * divisor
    return starts, (before, missing - before)
