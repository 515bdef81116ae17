"""Finds intensities that spoil the normalization of an image: NaN, no-data values, diverged voxels, no contrast.

Voxels far from all others (the lowest float as background, one voxel of 1e25 in a map) inflate mean and standard
deviation, so that the rest of the image is squeezed into a sliver, or into one number of single precision. The extremes
of a channel are taken over all voxels; everything else from a sample of it, so that a usual image costs two passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16

from autoseg.labels import LabelScheme
from autoseg.plan.preprocessing import SMALLEST_DIVISOR

SMALL_RANGE: Final = 1e-6  # below it, a standard deviation may be smaller than the smallest divisor
SAMPLE_VOXELS: Final = 2**16
SCREENED_VOXELS: Final = 2**12
COMMON_FRACTION: Final = 0.1  # a value that more of the sample has is taken for a background, or for no data (guess)
FEWEST_VALUES: Final = 8  # fewer are classes of a mask, none of which is a background, or stand for no data
# Voxels count as far away if, on a scale of distances from the centre of the others, none lies in between over such a
# factor (guess; in PET there is no such gap between background, organs and bladder).
SMALLEST_GAP: Final = 20.0
NARROW_RANGE: Final = 15.0  # as a multiple of the interquartile range; less than the gap, as a small sample is coarse
LARGEST_SQUEEZE: Final = 0.1  # standard deviations that 90 % of the others span; usual images have 1 to 4
# Diverged fits may leave values of every magnitude, without a gap.
LARGEST_RANGE: Final = 1e6  # as a multiple of the interquartile range
LARGEST_SQUEEZE_WITHOUT_GAP: Final = 0.01
# More voxels than this with many values are a body before a background of little noise, unless their numbers are so
# large as no image has (guesses; PET in Bq/ml reaches 1e8).
LARGEST_FAR_FRACTION: Final = 0.01
LARGEST_FAR_FRACTION_OF_LARGE_RANGE: Final = 0.05
LARGEST_PLAUSIBLE: Final = 1e9
QUIETEST: Final = 1e6  # an object may be that many times the noise around 0, as where splines ring around a mask
OFF_CENTRE: Final = 0.25  # distance of the median of such noise from 0, as a multiple of its interquartile range
SMALLEST_OBJECT_FRACTION: Final = 1e-3  # of all voxels; diverged voxels are fewer
OVERFLOWING: Final = 1e15  # from about here on, squares and their sums may overflow single precision
QUARTILES: Final = (0.25, 0.5, 0.75)
MIDDLE: Final = (0.05, 0.95)
OVERFLOW: Final = "mean and standard deviation overflow single precision, so that the image cannot be normalized"
LARGEST_DAMAGE: Final = 0.05  # fraction of a class that other values may replace
LARGEST_WHOLE: Final = 1e6  # whole numbers below are written in full

Values = Float32[np.ndarray, "..."]
Mask = Bool[np.ndarray, "..."]
Sorted = Float64[np.ndarray, "..."]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityFindings:
    """Problems and oddities of an image, one sentence each.

    Attributes:
        problems: Reasons why the image cannot be used.
        warnings: Oddities with which it can.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Returns whether anything was found."""
        return bool(self.problems or self.warnings)

    def add_remedy(self, remedy: str) -> "IntensityFindings":
        """Adds what to do to each sentence."""
        return IntensityFindings(
            problems=tuple(f"{text}; {remedy}" for text in self.problems),
            warnings=tuple(f"{text}; {remedy}" for text in self.warnings),
        )

    def __add__(self, other: "IntensityFindings") -> "IntensityFindings":
        """Joins the findings of two parts."""
        return IntensityFindings(problems=self.problems + other.problems, warnings=self.warnings + other.warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """Sampled values that lie together, where others are far away.

    Attributes:
        centre: Their median, without backgrounds.
        spread: Their interquartile range, without backgrounds.
        limit: Distance from the centre beyond which the others lie.
        lowest: The smallest of them, like `highest` the largest.
        lower: 5th percentile without backgrounds, like `upper` the 95th.
        largest_squeeze: Standard deviations that they must span.
        largest_far_fraction: Fraction of all voxels that may be far away if they have many values.
    """

    centre: float
    spread: float
    limit: float
    lowest: float
    highest: float
    lower: float
    upper: float
    largest_squeeze: float
    largest_far_fraction: float

    def find_far(self, values: Values) -> Mask:
        """Finds the values that lie beyond the limit; 0 is a background, wherever it lies."""
        is_below = (values < self.centre - self.limit) & (values != 0)
        is_far: Mask = (values > self.centre + self.limit) | is_below
        return is_far

    def is_background_of(self, far: Values, voxel_count: int) -> bool:
        """Returns whether the rest is but a quiet background, and what lies far away is the object of the image."""
        lowest, highest = float(far.min()), float(far.max())
        if _count_body(far) > self.largest_far_fraction * voxel_count:
            return True
        is_noise = abs(self.centre) <= OFF_CENTRE * self.spread and self.spread * QUIETEST <= max(-lowest, highest)
        return is_noise and far.size > SMALLEST_OBJECT_FRACTION * voxel_count


def examine_image(
    image: Float32[np.ndarray, "channel z y x"],
    channel_names: Sequence[str],
    *,
    clipped: Sequence[bool],
    foreground: Bool[np.ndarray, "z y x"] | None = None,
    label_map: Int16[np.ndarray, "z y x"] | None = None,
    labels: LabelScheme | None = None,
) -> IntensityFindings:
    """Examines the intensities of every channel.

    Args:
        image: Intensities.
        channel_names: Names of the channels, for messages.
        clipped: Whether normalization clips the channel to a window that is measured in the foreground, as it does CT.
            Then it matters only what the foreground holds.
        foreground: The voxels over which a window is measured; None if none is.
        label_map: Labels of the voxels; None where none are known.
        labels: Names the classes of the label map.
    """
    found = IntensityFindings()
    for index, (channel, name, is_clipped) in enumerate(zip(image, channel_names, clipped, strict=True)):
        what = f"channel {index} ({name})"
        lowest, highest = float(channel.min()), float(channel.max())
        if lowest == highest or not np.isfinite([lowest, highest]).all():
            found += _describe_unusable(channel, lowest, what)
        elif not is_clipped and highest - lowest < SMALL_RANGE:
            found += _describe_small_contrast(channel, what)
        elif not is_clipped:
            found += find_outliers(channel, (lowest, highest), what=what, label_map=label_map, labels=labels)
        elif foreground is not None and foreground.any():
            inside = channel[foreground]
            ends = float(inside.min()), float(inside.max())
            inside_labels = None if label_map is None else label_map[foreground]
            found += find_outliers(
                inside, ends, what=what, counted="labelled voxel", label_map=inside_labels, labels=labels
            )
    return found


def find_outliers(
    values: Values,
    ends: tuple[float, float],
    *,
    what: str,
    counted: str = "voxel",
    label_map: Int16[np.ndarray, "..."] | None = None,
    labels: LabelScheme | None = None,
) -> IntensityFindings:
    """Finds values far from all others, and judges what they do to normalization.

    Args:
        values: Finite intensities over which mean and standard deviation are computed, at least one.
        ends: The lowest and the highest of them.
        what: Names their channel in messages.
        counted: A word for one of them.
        label_map: The label of each; None where none are known.
        labels: Names the classes of the label map.
    """
    lowest, highest = ends
    if highest - lowest < SMALL_RANGE:
        return IntensityFindings()
    rest = _find_rest(values, lowest, highest)
    if rest is None:
        text = f"{what} has values from {_format(lowest)} to {_format(highest)}"
        return _check_overflow(values, ends, text=text).add_remedy(_advise_division(ends))
    is_far = rest.find_far(values)
    far: Values = values[is_far]
    if far.size == 0:
        return IntensityFindings()
    text = (
        f"{what} has {far.size} {counted}{'' if far.size == 1 else 's'} {_describe_range(far)} (the smallest of the "
        f"others is {_format(rest.lowest)}, the largest {_format(rest.highest)})"
    )
    found = _check_overflow(values, ends, text=text) or _judge(values, far, rest, text=text)
    if not found:
        return found
    damaged = None if label_map is None or labels is None else _find_damaged_class(is_far, label_map, labels)
    return found.add_remedy(_advise_replacement(values, rest) if damaged is None else _advise_restoring(damaged))


def compute_mean_and_std(values: Values) -> tuple[float, float]:
    """Computes mean and standard deviation by numpy in single precision; infinity or NaN where they overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(values.mean()), float(values.std())


def measure_scale(channel: Float32[np.ndarray, "z y x"]) -> float:
    """Measures the standard deviation of a sample of the voxels, about `SAMPLE_VOXELS` of a larger channel."""
    step = max(1, round((channel.size / SAMPLE_VOXELS) ** (1 / 3)))
    return float(channel[::step, ::step, ::step].std(dtype=np.float64)) if channel.size else 0.0


def _describe_unusable(channel: Values, lowest: float, what: str) -> IntensityFindings:
    bad = channel.size - int(np.count_nonzero(np.isfinite(channel)))
    if bad:
        text = f"intensities must be finite numbers, found {bad} voxels with NaN or infinity in {what}; replace them"
        return IntensityFindings(problems=(text,))
    text = f"all voxels of {what} have the same value ({lowest:g}): it shows nothing, and is normalized to zeros"
    return IntensityFindings(warnings=(text,))


def _describe_small_contrast(values: Values, what: str) -> IntensityFindings:
    std = compute_mean_and_std(values)[1]
    if std >= SMALLEST_DIVISOR:
        return IntensityFindings()
    text = (
        f"the standard deviation of {what} is {std:.1g}, but normalization divides by at least {SMALLEST_DIVISOR:g}, "
        f"which leaves little contrast; save the image in a smaller unit, as larger numbers"
    )
    return IntensityFindings(warnings=(text,))


def _check_overflow(values: Values, ends: tuple[float, float], *, text: str) -> IntensityFindings:
    if max(np.abs(ends)) < OVERFLOWING or np.isfinite(compute_mean_and_std(values)).all():
        return IntensityFindings()
    return IntensityFindings(problems=(f"{text}: {OVERFLOW}",))


def _judge(values: Values, far: Values, rest: _Rest, *, text: str) -> IntensityFindings:
    lowest, highest = float(far.min()), float(far.max())
    is_plausible = max(-lowest, highest) < LARGEST_PLAUSIBLE
    if is_plausible and rest.is_background_of(far, values.size):
        return IntensityFindings()
    mean, std = compute_mean_and_std(values)
    if not is_plausible and _normalize(rest.lowest, mean, std) == _normalize(rest.highest, mean, std):
        return IntensityFindings(problems=(f"{text}: normalization would make all others one constant",))
    span = (rest.upper - rest.lower) / std
    if span >= rest.largest_squeeze:
        return IntensityFindings()
    effect = f"after normalization 90 % of the others span {span:.1g} standard deviations"
    return IntensityFindings(warnings=(f"{text}: {effect}",))


def _find_damaged_class(is_far: Mask, label_map: Int16[np.ndarray, "..."], labels: LabelScheme) -> str | None:
    """Finds the innermost class that has most of the voxels far away and loses a part of itself with them."""
    far = label_map[is_far]
    for name, members in zip(reversed(labels.class_names), reversed(labels.class_labels), strict=True):
        count = 0 if 0 in members else int(np.isin(far, members).sum())
        if 2 * count > far.size and count > LARGEST_DAMAGE * np.isin(label_map, members).sum():
            return name
    return None


def _advise_restoring(name: str) -> str:
    return f"most of them are labelled as class {name!r}: restore the image, as other values would show nothing of it"


def _advise_replacement(values: Values, rest: _Rest) -> str:
    """Names a value of the rest to replace the others by: 0 where it occurs, else the smallest."""
    has_zero = rest.lowest == 0 or (rest.centre + rest.limit >= 0 and bool((values == 0).any()))
    value = "0" if has_zero else _format(rest.lowest)
    advice = f"replace such values by one that occurs in the rest of the image, such as {value}"
    inside = (rest.lowest, rest.highest)
    return f"{advice}, and {_advise_division(inside)}" if max(np.abs(inside)) >= OVERFLOWING else advice


def _advise_division(ends: tuple[float, float]) -> str:
    """Names a power of ten by which an image must be divided to have usual numbers."""
    exponent = int(np.log10(max(np.abs(ends)))) - 3
    return f"divide the whole image by a constant, such as 1e{exponent}"


def _find_rest(values: Values, lowest: float, highest: float) -> _Rest | None:
    """Separates the values that lie together from those far away; None if none does."""
    if _is_narrow(values, lowest, highest):
        return None
    sample = _sort_sample(values, SAMPLE_VOXELS)
    inner = _drop_backgrounds(sample)
    lower_quartile, centre, upper_quartile = _pick(inner, QUARTILES)
    distances = np.abs(sample - centre)
    spread = (upper_quartile - lower_quartile) or float(distances[distances > 0].min(initial=highest - lowest))
    limit, largest_squeeze = _find_limit(sample, centre, spread, lowest=lowest, highest=highest)
    if limit is None:
        return None
    rest = sample[(distances <= limit) | (sample == 0)]
    inside = inner[np.abs(inner - centre) <= limit]
    inside = inside if inside[0] < inside[-1] else rest
    lower, upper = _pick(inside, MIDDLE)
    if lower == upper:
        lower, upper = float(inside[0]), float(inside[-1])
    has_large_range = highest - lowest >= LARGEST_RANGE * spread
    return _Rest(
        centre=centre,
        spread=spread,
        limit=limit,
        lowest=float(inside[0]),
        highest=float(inside[-1]),
        lower=lower,
        upper=upper,
        largest_squeeze=largest_squeeze,
        largest_far_fraction=LARGEST_FAR_FRACTION_OF_LARGE_RANGE if has_large_range else LARGEST_FAR_FRACTION,
    )


def _is_narrow(values: Values, lowest: float, highest: float) -> bool:
    """Returns whether the range is too narrow for a gap, as in most images, by a small sample."""
    lower, upper = _pick(_drop_backgrounds(_sort_sample(values, SCREENED_VOXELS)), (QUARTILES[0], QUARTILES[-1]))
    return highest - lowest < NARROW_RANGE * (upper - lower)


def _find_limit(
    sample: Sorted, centre: float, spread: float, *, lowest: float, highest: float
) -> tuple[float | None, float]:
    """Finds the distance beyond which values are far away, and the span that the others must keep."""
    kept = np.concatenate([sample, [lowest, highest]])
    distances = np.sort(np.abs(kept[kept != 0] - centre))
    if distances.size < 2:
        return None, 0.0
    near = np.maximum(distances[:-1], spread)
    widest = int(np.argmax(distances[1:] / near))
    if distances[widest + 1] / near[widest] >= SMALLEST_GAP:
        return float(np.sqrt(distances[widest + 1] * near[widest])), LARGEST_SQUEEZE
    if highest - lowest >= LARGEST_RANGE * spread:
        return float(np.sqrt((highest - lowest) * spread)), LARGEST_SQUEEZE_WITHOUT_GAP
    return None, 0.0


def _count_body(far: Values) -> float:
    """Counts the voxels of a body among those far away: their values are many, unlike those that stand for no data."""
    sample = _sort_sample(far, SAMPLE_VOXELS)
    counts = np.unique(sample, return_counts=True)[1]
    counts = counts[counts < COMMON_FRACTION * sample.size]
    return float(counts.sum() / sample.size * far.size) if counts.size >= FEWEST_VALUES else 0.0


def _sort_sample(values: Values, size: int) -> Sorted:
    step = max(1, values.size // size) | 1  # odd, lest it picks the same columns of every row
    sample: Sorted = np.sort(values.ravel()[::step]).astype(np.float64)
    return sample


def _drop_backgrounds(sample: Sorted) -> Sorted:
    """Drops zeros, and the most frequent other value if it is common; keeps everything where nothing would be left."""
    inner: Sorted = sample[sample != 0]
    if inner.size == 0:
        return sample
    ends = np.append(np.flatnonzero(inner[1:] != inner[:-1]), inner.size - 1)  # of the runs of equal values
    counts = np.diff(ends, prepend=-1)
    if ends.size > FEWEST_VALUES and counts.max() > COMMON_FRACTION * sample.size:
        inner = inner[inner != inner[ends[counts.argmax()]]]
    return inner


def _pick(ordered: Sorted, fractions: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(ordered[int(fraction * (ordered.size - 1))]) for fraction in fractions)


def _normalize(value: float, mean: float, std: float) -> float:
    """Normalizes one value in single precision, as arrays are."""
    return float((np.float32(value) - np.float32(mean)) / np.float32(std))


def _describe_range(far: Values) -> str:
    lowest, highest = float(far.min()), float(far.max())
    return f"of {_format(lowest)}" if lowest == highest else f"from {_format(lowest)} to {_format(highest)}"


def _format(value: float) -> str:
    """Writes four digits, and whole numbers of usual size in full."""
    return f"{value:.0f}" if abs(value) < LARGEST_WHOLE and value.is_integer() else f"{value:.4g}"
