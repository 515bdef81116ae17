"""Tells cases that differ from all that the training data showed, feature by feature.

Every feature is compared with its median over known cases, in units of the distance from there to the 5th or the 95th
percentile. One threshold holds for the largest of these deviations. It is the conformal quantile over cases whose block
was left out when the medians were measured, so that of new cases like these as few as intended are flagged,
however many features there are.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from jaxtyping import Int64

from autoseg.document import Part
from autoseg.fingerprint import Fingerprint
from autoseg.quality.features import (
    MM3_PER_ML,
    CaseFeatures,
    ChannelFeatures,
    ClassProbabilities,
    ClassShape,
    ImageFeatures,
    compute_log,
    compute_logit,
)
from autoseg.quality.images import PERCENTILES, compute_likeness
from autoseg.quality.shown_units import LENGTH_WORDS, USUAL_UNITS, VOLUME_WORDS, ShownUnits

FlagKind = Literal[
    "spacing",
    "extent",
    "orientation",
    "intensity",
    "volume",
    "components",
    "shape",
    "border",
    "probabilities",
    "plausibility",
    "missing class",
]
Sides = Literal["both", "low", "high"]

FALSE_FLAGS: Final = 0.03
"""Intended share of usual cases that are flagged."""
FEWEST_FOR_THRESHOLD: Final = 33
"""With fewer cases, no quantile leaves out so few: the default threshold holds."""
USUAL_THRESHOLD: Final = 3.0
"""Deviation that is flagged where there are too few cases to calibrate it: a guess, near what Hippocampus gave."""
PRESENT_FRACTION: Final = 0.95
"""Share of the known cases that must hold a class for its absence to be flagged."""
FEWEST_VALUES: Final = 5
"""With fewer known values, nothing is said of a feature."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One kind of feature.

    Attributes:
        flag: Flag that is raised.
        words: Name and unit for messages; {} stands for the value, {length} and {volume} for units.
        floor: Smallest distance from the median to the percentiles, in the units of `transform`: differences of this
            size are nothing to look at, however equal the known cases are.
        sides: Sides on which a deviation matters.
        transform: Makes values of which differences can be compared, such as a logarithm.
    """

    flag: FlagKind
    words: str
    floor: float
    sides: Sides = "both"
    transform: Callable[[float], float] = float


MEASURES: Final[Mapping[str, Measure]] = {
    "spacing": Measure("spacing", "spacing {} {length}", 0.05, transform=compute_log),
    "extent": Measure("extent", "extent {} {length}", 0.05, transform=compute_log),
    "tilt": Measure("orientation", "tilt against the axes of the patient {} degrees", 3.0, "high"),
    "likeness": Measure("orientation", "correlation with the mean training image {}", 0.05, "low"),
    "place": Measure("orientation", "centre at {} of the image", 0.02),
    "offset": Measure("orientation", "offset {} {length}", 1.0),
    "percentile": Measure("intensity", "normalized intensity {}", 0.1),
    "contrast": Measure(
        "intensity", "neighbouring voxels differ by {} standard deviations", 0.05, transform=compute_log
    ),
    "roughness": Measure("intensity", "second difference of voxels {} times the first", 0.03, transform=compute_log),
    "floor": Measure("intensity", "share {} of voxels with the lowest intensity", 0.02),
    "brightness": Measure("intensity", "mean normalized intensity {}", 0.1),
    "volume": Measure("volume", "volume {} {volume}", 0.05, transform=compute_log),
    "components": Measure("components", "{} components", 0.5, "high", compute_log),
    "largest": Measure("components", "share {} in the largest component", 0.02, "low"),
    "compactness": Measure("shape", "surface^3 / (36 pi volume^2) {} (1: a ball)", 0.05, transform=compute_log),
    "border": Measure("border", "share {} of the surface on the border of the image", 0.02, "high"),
    "confidence": Measure("probabilities", "soft Dice {}", 0.1, "low", compute_logit),
    "plausibility": Measure("plausibility", "reconstructed by the label autoencoder with a Dice of {}", 0.02, "low"),
}
"""All features that are compared. The floors are guesses."""

PLACES: Final = ("z", "y", "x")


class TypicalRange(Part):
    """Values of one feature in known cases.

    Attributes:
        measure: Key of `MEASURES`.
        subject: Class, channel or axis that it is measured of.
        median: Median of the transformed values.
        below: Distance from there to the 5th percentile.
        above: Distance to the 95th percentile.
        smallest: Smallest value, not transformed.
        largest: Largest value.
        is_always_there: Whether (almost) all known cases have a value.
    """

    measure: str
    subject: str
    median: float
    below: float
    above: float
    smallest: float
    largest: float
    is_always_there: bool

    def measure_deviation(self, value: float | None) -> float:
        """Measures how far a value lies from the median, in distances to the percentiles; infinite if it is missing."""
        measure = MEASURES[self.measure]
        if value is None:
            return math.inf if self.is_always_there and self.measure == "volume" else 0.0
        difference = measure.transform(value) - self.median
        if (difference < 0 and measure.sides == "high") or (difference > 0 and measure.sides == "low"):
            return 0.0
        return abs(difference) / (self.below if difference < 0 else self.above)


class Flag(Part):
    """Something about a prediction that a person should look at.

    Attributes:
        kind: Kind of the difference.
        deviation: Distance from the median, in units of that at which known cases are flagged: more than 1. None where
            a class is missing.
        text: One sentence with the numbers.
    """

    kind: FlagKind
    deviation: float | None
    text: str


class Distribution(Part):
    """Typical features of known cases.

    Attributes:
        ranges: Values of every feature.
        threshold: Deviation from which on a case is flagged.
        thumbnails: Mean thumbnail of every channel; empty if none is known.
        cases: Number of known cases.
        is_calibrated: Whether the threshold comes from known cases, not from a guess.
    """

    ranges: tuple[TypicalRange, ...]
    threshold: float
    thumbnails: tuple[tuple[float, ...], ...]
    cases: int
    is_calibrated: bool

    def find_flags(self, values: Mapping[tuple[str, str], float], units: ShownUnits = USUAL_UNITS) -> tuple[Flag, ...]:
        """Finds everything unusual about a case, the largest deviation first.

        Args:
            values: Features as `list_values` returns them.
            units: Units in which they are told.
        """
        deviations = [
            (known.measure_deviation(values.get((known.measure, known.subject))), known) for known in self.ranges
        ]
        unusual = [(deviation, known) for deviation, known in deviations if deviation > self.threshold]
        unusual.sort(key=lambda entry: -entry[0])
        return tuple(self._describe(deviation, known, values, units) for deviation, known in unusual)

    def _describe(
        self, deviation: float, known: TypicalRange, values: Mapping[tuple[str, str], float], units: ShownUnits
    ) -> Flag:
        value = values.get((known.measure, known.subject))
        measure = MEASURES[known.measure]
        if value is None:
            text = f"{known.subject} is missing, which almost all of {self.cases} training cases have"
            return Flag(kind="missing class", deviation=None, text=text)
        value, smallest, largest = (
            units.show_volume(number) if known.measure == "volume" else number
            for number in (value, known.smallest, known.largest)
        )
        told = measure.words.format(
            f"{value:.3g}", length=LENGTH_WORDS[units.lengths], volume=VOLUME_WORDS[units.lengths]
        )
        text = f"{known.subject}: {told}, in {self.cases} training cases {smallest:.3g} to {largest:.3g}"
        return Flag(kind=measure.flag, deviation=deviation / self.threshold, text=text)


def list_values(
    features: CaseFeatures,
    thumbnails: Sequence[tuple[float, ...]],
    *,
    channel_names: Sequence[str],
    class_names: Sequence[str],
) -> dict[tuple[str, str], float]:
    """Lists all features of a case by measure and subject.

    Args:
        features: Features of the case.
        thumbnails: Mean thumbnails that the image is compared with, one for each channel, or none.
        channel_names: Names of the channels.
        class_names: Names of the classes.
    """
    image, of_network = features.network.image, features.network.probabilities
    values = dict(list_grid_values(image.spacing_mm, image.extent_mm))
    values["tilt", "image"] = image.tilt_degrees
    for name, channel in zip(channel_names, image.channels, strict=True):
        values |= _list_channel_values(name, channel)
    for name, channel, mean in zip(channel_names, image.channels, thumbnails, strict=False):
        values["likeness", name] = compute_likeness(channel.thumbnail, mean)
    for name, shape, probabilities in zip(class_names, features.shapes, of_network, strict=True):
        values |= _list_class_values(name, shape, probabilities, channel_names)
    values |= _list_offsets(image, features.shapes, class_names)
    if features.network.plausibility is not None:
        values["plausibility", "label map"] = features.network.plausibility
    return values


def list_grid_values(
    spacing_mm: Sequence[float], extent_mm: Sequence[float]
) -> Iterator[tuple[tuple[str, str], float]]:
    """Yields spacing and extent along each axis."""
    for axis, spacing, extent in zip(PLACES, spacing_mm, extent_mm, strict=True):
        yield ("spacing", f"axis {axis}"), spacing
        yield ("extent", f"axis {axis}"), extent


def measure_typical_ranges(cases: Sequence[Mapping[tuple[str, str], float]]) -> tuple[TypicalRange, ...]:
    """Measures the typical range of every feature that enough known cases have."""
    names = dict.fromkeys(name for values in cases for name in values)
    found = {name: [values[name] for values in cases if name in values] for name in names}
    return tuple(
        _measure_range(name, known, len(cases)) for name, known in found.items() if len(known) >= FEWEST_VALUES
    )


def learn_distribution(
    cases: Sequence[CaseFeatures],
    blocks: Int64[np.ndarray, " case"],
    *,
    channel_names: Sequence[str],
    class_names: Sequence[str],
) -> Distribution:
    """Measures all typical ranges, and calibrates the threshold on cases whose block is left out."""

    def list_all(
        chosen: Sequence[CaseFeatures], thumbnails: Sequence[tuple[float, ...]]
    ) -> list[dict[tuple[str, str], float]]:
        return [
            list_values(entry, thumbnails, channel_names=channel_names, class_names=class_names) for entry in chosen
        ]

    deviations: list[float] = []
    is_calibrated = len(cases) >= FEWEST_FOR_THRESHOLD and len(np.unique(blocks)) > 1
    for block in np.unique(blocks) if is_calibrated else ():
        others = [entry for entry, own in zip(cases, blocks, strict=True) if own != block]
        thumbnails = average_thumbnails(others)
        ranges = measure_typical_ranges(list_all(others, thumbnails))
        left_out = list_all([entry for entry, own in zip(cases, blocks, strict=True) if own == block], thumbnails)
        deviations += [measure_largest_deviation(values, ranges) for values in left_out]
    thumbnails = average_thumbnails(cases)
    return Distribution(
        ranges=measure_typical_ranges(list_all(cases, thumbnails)),
        threshold=_find_threshold(deviations) if is_calibrated else USUAL_THRESHOLD,
        thumbnails=thumbnails,
        cases=len(cases),
        is_calibrated=is_calibrated,
    )


def measure_largest_deviation(values: Mapping[tuple[str, str], float], ranges: Sequence[TypicalRange]) -> float:
    """Measures the largest deviation of a case."""
    return max((known.measure_deviation(values.get((known.measure, known.subject))) for known in ranges), default=0.0)


def average_thumbnails(cases: Sequence[CaseFeatures]) -> tuple[tuple[float, ...], ...]:
    """Averages the thumbnails of all cases for each channel."""
    of_cases = np.array([[channel.thumbnail for channel in entry.network.image.channels] for entry in cases])
    return tuple(tuple(np.round(mean, 4).tolist()) for mean in of_cases.mean(0)) if len(of_cases) else ()


def _find_threshold(deviations: Sequence[float]) -> float:
    """Finds the conformal quantile that leaves out the intended share; a missing class never raises it."""
    ordered = sorted(value for value in deviations if math.isfinite(value))
    rank = math.ceil((1 - FALSE_FLAGS) * (len(deviations) + 1))
    return max(1.0, ordered[min(rank, len(ordered)) - 1]) if ordered else USUAL_THRESHOLD


def _measure_range(name: tuple[str, str], known: Sequence[float], cases: int) -> TypicalRange:
    measure = MEASURES[name[0]]
    low, median, high = np.percentile([measure.transform(value) for value in known], (5, 50, 95)).tolist()
    return TypicalRange(
        measure=name[0],
        subject=name[1],
        median=median,
        below=max(median - low, measure.floor),
        above=max(high - median, measure.floor),
        smallest=min(known),
        largest=max(known),
        is_always_there=len(known) >= PRESENT_FRACTION * cases,
    )


def _list_channel_values(name: str, channel: ChannelFeatures) -> dict[tuple[str, str], float]:
    values = {
        ("percentile", f"{name}, percentile {at}"): value
        for at, value in zip(PERCENTILES, channel.percentiles, strict=True)
    }
    values["contrast", name] = channel.contrast
    values["roughness", name] = channel.roughness
    values["floor", name] = channel.floor_fraction
    return values


def _list_class_values(
    name: str, shape: ClassShape | None, probabilities: ClassProbabilities | None, channel_names: Sequence[str]
) -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], float] = {}
    if shape is not None:
        values["volume", name] = shape.volume_ml
        values["components", name] = float(shape.components)
        values["largest", name] = shape.largest_fraction
        values["compactness", name] = shape.compactness
        values["border", name] = shape.border_fraction
        values |= {("place", f"{name}, axis {axis}"): at for axis, at in zip(PLACES, shape.centre, strict=True)}
    if probabilities is not None:
        values["confidence", name] = probabilities.soft_dice
        values |= {
            ("brightness", f"{name}, {channel}"): value
            for channel, value in zip(channel_names, probabilities.intensities, strict=True)
        }
    return values


def _list_offsets(
    image: ImageFeatures, shapes: Sequence[ClassShape | None], class_names: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Lists the offset of each class from the one before it in mm, which tells mirrored and turned anatomy."""
    values = {}
    known = [(name, shape) for name, shape in zip(class_names, shapes, strict=True)]
    for (first, before), (second, after) in pairwise(known):
        if before is not None and after is not None:
            places = zip(PLACES, before.centre, after.centre, image.extent_mm, strict=True)
            for axis, start, end, extent in places:
                values["offset", f"{second} from {first}, axis {axis}"] = (end - start) * extent
    return values


def describe_training_grids(fingerprint: Fingerprint, axis_permutation: Sequence[int]) -> Distribution:
    """Describes what a fingerprint tells of training cases: grids and volumes, without any prediction.

    Cases with ignored voxels have no volumes: parts of their classes may be ignored.

    Args:
        fingerprint: Fingerprint of the training cases.
        axis_permutation: Axes of the plan in those of the fingerprint.
    """
    names = fingerprint.labels.class_names
    has_ignored = fingerprint.labels.ignore_label is not None
    cases = []
    for case in fingerprint.cases:
        spacing = [case.spacing_mm[axis] for axis in axis_permutation]
        extent = [case.spacing_mm[axis] * case.shape_voxels[axis] for axis in axis_permutation]
        voxel_ml = math.prod(case.spacing_mm) / MM3_PER_ML
        counts = zip(names, case.voxel_counts, strict=True)
        is_whole = not has_ignored or case.ignored_fraction == 0
        volumes = {("volume", name): count * voxel_ml for name, count in counts if count and is_whole}
        cases.append(dict(list_grid_values(spacing, extent)) | volumes)
    return Distribution(
        ranges=measure_typical_ranges(cases),
        threshold=USUAL_THRESHOLD,
        thumbnails=(),
        cases=len(cases),
        is_calibrated=False,
    )
