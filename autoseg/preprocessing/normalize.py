"""Normalizes the intensities of every channel by the scheme of the plan.

Statistics are computed by numpy in float32 on the array in its given memory order, as in the reference implementation:
other sums would differ in the last bits.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32

from autoseg.errors import PlanError
from autoseg.plan.preprocessing import ChannelPlan, NormalizationScheme

SMALLEST_DIVISOR: Final = 1e-8  # a constant image is divided by this, not by zero
RGB_MAXIMUM: Final = 255.0

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
    if channel.window is not None:
        np.clip(target, channel.window.lower, channel.window.upper, out=target)
        shift, divisor = channel.window.mean, max(channel.window.std, SMALLEST_DIVISOR)
    else:
        shift, divisor = _SCHEMES[channel.normalization](source, channel.name)
    target -= shift
    target /= divisor


def _standardize(values: Values, name: str) -> ShiftAndDivisor:
    del name
    return float(values.mean()), max(float(values.std()), SMALLEST_DIVISOR)


def _rescale(values: Values, name: str) -> ShiftAndDivisor:
    del name
    lowest = values.min()
    return float(lowest), max(float(values.max() - lowest), SMALLEST_DIVISOR)


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
    del values, name
    return 0.0, 1.0


_SCHEMES: Final[dict[NormalizationScheme, Callable[[Values, str], ShiftAndDivisor]]] = {
    "zscore": _standardize,
    "none": _keep,
    "rescale_to_0_1": _rescale,
    "rgb_to_0_1": _rescale_rgb,
}
