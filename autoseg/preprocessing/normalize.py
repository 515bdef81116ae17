"""Normalizes the intensities of every channel by the scheme of the plan.

Statistics are computed by numpy in float32 on the array in its given memory order, as in the reference implementation:
other sums would differ in the last bits.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32

from autoseg.errors import PlanError
from autoseg.intensities import compute_mean_and_std
from autoseg.plan.preprocessing import (
    LARGEST_NORMALIZED,
    SMALLEST_DIVISOR,
    ChannelPlan,
    IntensityWindow,
    NormalizationScheme,
)

RGB_MAXIMUM: Final = 255.0
ROUNDING: Final = 1e-5  # more than the rounding error of a standard deviation, as a fraction of the mean

Values = Float32[np.ndarray, "..."]
ShiftAndDivisor = tuple[float, float]
"""Every scheme computes (intensity - shift) / divisor."""


def normalize(
    image: Float32[np.ndarray, "channel z y x"],
    channels: Sequence[ChannelPlan],
    nonzero_mask: Bool[np.ndarray, "z y x"] | None,
) -> Float32[np.ndarray, "channel z y x"]:
    """Returns a normalized, C-contiguous copy.

    Args:
        image: Cropped intensities, as a view in any memory order.
        channels: Normalization of each channel of the image.
        nonzero_mask: Voxels to which channels with `inside_nonzero_only` are restricted; the others keep their
            value. None is allowed if there is no such channel.

    Raises:
        PlanError: The image has another number of channels than the plan, or its values do not suit the planned
            normalization.
    """
    if len(image) != len(channels):
        names = ", ".join(channel.name for channel in channels)
        msg = f"expected {len(channels)} image channels ({names}), found {len(image)}; give one image per channel"
        raise PlanError(msg)
    result = np.empty(image.shape, dtype=np.float32)
    for source, target, channel in zip(image, result, channels, strict=True):
        target[...] = source
        if channel.inside_nonzero_only:
            assert nonzero_mask is not None, f"channel {channel.name!r} needs the nonzero mask"
            inside = source[nonzero_mask]
            _normalize_in_place(inside, inside, channel)
            target[nonzero_mask] = inside
        else:
            _normalize_in_place(target, source, channel)
    return result


def _normalize_in_place(target: Values, source: Values, channel: ChannelPlan) -> None:
    """Normalizes `target`, a copy of `source`; statistics are taken on `source` because of its memory order."""
    if source.size == 0:
        return
    shift, divisor = (
        _SCHEMES[channel.normalization](source, channel.name)
        if channel.window is None
        else _clip(target, channel.window, channel.name)
    )
    target -= shift
    target /= divisor


def _clip(target: Values, window: IntensityWindow, name: str) -> ShiftAndDivisor:
    flaw = window.explain_flaw()
    if flaw is not None:
        msg = (
            f"channel {name!r} cannot be normalized: {flaw}; plan the dataset again with another name of the channel "
            f"in dataset.json, such as 'zscore', and train again"
        )
        raise PlanError(msg)
    np.clip(target, window.lower, window.upper, out=target)
    return window.mean, window.std


def _standardize(values: Values, name: str) -> ShiftAndDivisor:
    mean, std = compute_mean_and_std(values)
    return _check_divisor(values, mean, max(std, SMALLEST_DIVISOR), name)


def _rescale(values: Values, name: str) -> ShiftAndDivisor:
    with np.errstate(over="ignore"):
        lowest, extent = values.min(), values.max() - values.min()
    return _check_divisor(values, float(lowest), max(float(extent), SMALLEST_DIVISOR), name)


def _check_divisor(values: Values, shift: float, divisor: float, name: str) -> ShiftAndDivisor:
    is_finite = bool(np.isfinite([shift, divisor]).all())
    is_small = divisor <= max(SMALLEST_DIVISOR, ROUNDING * abs(shift))
    if (is_small or not is_finite) and values.min() == values.max():
        return float(values.flat[0]), 1.0  # zeros: the mean of equal values may differ from them in the last bit
    if not is_finite:
        msg = (
            f"channel {name!r} has values from {values.min():g} to {values.max():g}, which overflow single precision "
            f"in normalization; replace those that are far from the rest of the image"
        )
        raise PlanError(msg)
    return shift, divisor


def _rescale_rgb(values: Values, name: str) -> ShiftAndDivisor:
    lowest, highest = float(values.min()), float(values.max())
    if lowest < 0 or highest > RGB_MAXIMUM:
        msg = (
            f"channel {name!r} is normalized as 8-bit colour, so its values must lie in 0 to 255, "
            f"found {lowest:g} to {highest:g}; convert the image, or give the channel another name in dataset.json"
        )
        raise PlanError(msg)
    return 0.0, RGB_MAXIMUM


def _keep(values: Values, name: str) -> ShiftAndDivisor:
    lowest, highest = values.min(), values.max()
    if max(-lowest, highest) > LARGEST_NORMALIZED:
        msg = (
            f"channel {name!r} is not normalized, so that its values from {lowest:g} to {highest:g} would overflow in "
            f"the network; replace those of more than {LARGEST_NORMALIZED:g}"
        )
        raise PlanError(msg)
    return 0.0, 1.0


_SCHEMES: Final[dict[NormalizationScheme, Callable[[Values, str], ShiftAndDivisor]]] = {
    "zscore": _standardize,
    "none": _keep,
    "rescale_to_0_1": _rescale,
    "rgb_to_0_1": _rescale_rgb,
}
