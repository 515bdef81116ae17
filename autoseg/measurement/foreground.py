"""Foreground intensities of the cases, and their statistics over the whole dataset.

The reference implementation draws the same number of foreground intensities from every case, with replacement, and
takes the statistics of the pool. Here the limit of many draws is computed: the mixture of the cases'
distributions in which every case has the same weight.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt32

from autoseg.errors import RunError
from autoseg.fingerprint import ChannelFingerprint, ForegroundIntensities

# A summary keeps at most this many intensities. Of a normal distribution the median is then known to 1e-4 and the
# 0.5th percentile to 2e-4 standard deviations, both finer than the noise of 1e8 draws (5e-4 at the 0.5th percentile).
SUMMARY_VALUES: Final = 16384
# The percentiles that decide about clipping lie in the tails: each tail of this mass gets a quarter of the values.
TAIL_FRACTION: Final = 0.02
QUANTILES: Final = (0.005, 0.5, 0.995)
# Where a quantile lies between two values of the distribution their mean is taken, as for the median of an even count;
# the tolerance is for rounding of the summed weights.
WEIGHT_ROUNDING: Final = 1e-9
# More values than this, of all cases together, are kept in a temporary file; 1 MiB, and 5 while they are sorted.
MOST_VALUES_IN_MEMORY: Final = 2**17
HALF_BITS: Final = 16
HALF_VALUES: Final = 2**HALF_BITS
SIGN_BIT: Final = np.uint32(2**31)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensitySummary:
    """Foreground intensities of one channel of one case, small enough to be kept for every case.

    Attributes:
        values: Ascending intensities; all distinct ones, or `SUMMARY_VALUES` order statistics if there are more.
        counts: Number of voxels that each value represents.
        mean: Mean of all voxels, not of the summary.
        variance: Population variance of all voxels.
        min: Smallest intensity.
        max: Largest intensity.
    """

    values: Float32[np.ndarray, " value"]
    counts: Int32[np.ndarray, " value"]
    mean: float
    variance: float
    min: float
    max: float

    @property
    def size(self) -> int:
        """Number of values."""
        return self.values.size

    def load(self) -> "IntensitySummary":
        """Returns the summary itself, which is in memory."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSummary:
    """A summary whose values and counts are in a file.

    Attributes:
        file: File that is open for reading.
        position: Place in the file.
        size: Number of values.
        mean: Mean of all voxels.
        variance: Population variance of all voxels.
        min: Smallest intensity.
        max: Largest intensity.
    """

    file: BinaryIO
    position: int
    size: int
    mean: float
    variance: float
    min: float
    max: float

    def load(self) -> IntensitySummary:
        """Reads values and counts."""
        self.file.seek(self.position)
        values = np.frombuffer(self.file.read(4 * self.size), np.float32)
        counts = np.frombuffer(self.file.read(4 * self.size), np.int32)
        return IntensitySummary(
            values=values, counts=counts, mean=self.mean, variance=self.variance, min=self.min, max=self.max
        )


AnySummary = IntensitySummary | StoredSummary


@dataclass(frozen=True, slots=True)
class SummaryCodec:
    """Packs the summaries of a case.

    Attributes:
        file: Holds the values of stored summaries.
    """

    file: BinaryIO

    def pack(self, summaries: Sequence[AnySummary]) -> tuple[tuple[Any, ...], ...]:
        """Returns place and size, or the bytes of values and counts; behind them the numbers of each."""
        return tuple((*_locate(one), one.mean, one.variance, one.min, one.max) for one in summaries)

    def unpack(self, packed: Any) -> tuple[AnySummary, ...]:
        """Builds the summaries anew."""
        return tuple(self._build(*one) for one in packed)

    def _build(self, first: Any, second: Any, *numbers: float) -> AnySummary:
        mean, variance, smallest, largest = numbers
        known = {"mean": mean, "variance": variance, "min": smallest, "max": largest}
        if isinstance(first, int):
            return StoredSummary(file=self.file, position=first, size=second, **known)
        return IntensitySummary(
            values=np.frombuffer(first, np.float32), counts=np.frombuffer(second, np.int32), **known
        )


def _locate(summary: AnySummary) -> tuple[int, int] | tuple[bytes, bytes]:
    if isinstance(summary, StoredSummary):
        return summary.position, summary.size
    return summary.values.tobytes(), summary.counts.tobytes()


@dataclass(slots=True)
class SummaryStore:
    """Keeps the summaries of all cases: the first ones in memory, further ones in a file.

    Attributes:
        file: Receives values and counts.
        values_in_memory: Number of values that are in memory.
    """

    file: BinaryIO
    values_in_memory: int = 0

    def keep(self, summaries: Sequence[AnySummary]) -> tuple[AnySummary, ...]:
        """Returns what is kept of the summaries of a case.

        Raises:
            RunError: The file cannot be written.
        """
        self.values_in_memory += sum(summary.size for summary in summaries)
        if self.values_in_memory <= MOST_VALUES_IN_MEMORY:
            return tuple(summaries)
        self.values_in_memory = MOST_VALUES_IN_MEMORY
        return tuple(self._write(summary.load()) for summary in summaries)

    def _write(self, summary: IntensitySummary) -> StoredSummary:
        try:
            position = self.file.seek(0, os.SEEK_END)
            self.file.write(summary.values.tobytes() + summary.counts.tobytes())
            self.file.flush()
        except OSError as error:
            msg = (
                f"intensities of the cases cannot be written to {tempfile.gettempdir()}: {error.strerror or error}; "
                f"free space (at most 128 KiB for each case and channel), or set TMPDIR to another folder"
            )
            raise RunError(msg) from error
        return StoredSummary(
            file=self.file,
            position=position,
            size=summary.size,
            mean=summary.mean,
            variance=summary.variance,
            min=summary.min,
            max=summary.max,
        )


@contextmanager
def open_summary_store() -> Iterator[SummaryStore]:
    """Context manager with a store, whose file has no name and disappears with this process."""
    with tempfile.TemporaryFile(prefix="autoseg-") as file:
        yield SummaryStore(file)


def summarize_intensities(intensities: Float32[np.ndarray, " voxel"]) -> IntensitySummary:
    """Summarizes the foreground intensities of one channel of one case."""
    ordered = np.sort(intensities)
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, ordered.size)
    if ends.size > SUMMARY_VALUES:
        ends = _compute_group_ends(ordered.size)
    sizes = np.diff(ends, prepend=0)
    return IntensitySummary(
        values=ordered[ends - (sizes + 1) // 2],
        counts=sizes.astype(np.int32),
        mean=float(ordered.mean(dtype=np.float64)),
        variance=float(ordered.var(dtype=np.float64)),
        min=float(ordered[0]),
        max=float(ordered[-1]),
    )


def _compute_group_ends(voxel_count: int) -> Int64[np.ndarray, " group"]:
    """Divides sorted values into groups that are represented by their medians; groups in the two tails are small."""
    tail = SUMMARY_VALUES // 4
    knots = np.interp(
        np.arange(1, SUMMARY_VALUES + 1),
        (0, tail, SUMMARY_VALUES - tail, SUMMARY_VALUES),
        (0.0, TAIL_FRACTION, 1.0 - TAIL_FRACTION, 1.0),
    )
    ends = np.unique(np.rint(knots * voxel_count).astype(np.int64))
    return ends[ends > 0]


def _merge(iterate: Callable[[], Iterator[AnySummary]]) -> ForegroundIntensities | None:
    moments = np.fromiter(
        ((summary.mean, summary.variance, summary.min, summary.max) for summary in iterate()), np.dtype((float, 4))
    )
    if not len(moments):
        return None
    means, variances, smallest, largest = moments.T.copy()
    if all(isinstance(summary, IntensitySummary) for summary in iterate()):
        lower, median, upper = _compute_mixture_quantiles([summary.load() for summary in iterate()])
    else:
        lower, median, upper = select_mixture_quantiles(iterate)
    return ForegroundIntensities(
        mean=float(means.mean()),
        median=float(median),
        std=float(np.sqrt(variances.mean() + means.var())),
        min=min(smallest.tolist()),
        max=max(largest.tolist()),
        percentile_00_5=float(lower),
        percentile_99_5=float(upper),
    )


def _compute_mixture_quantiles(summaries: Sequence[IntensitySummary]) -> Float64[np.ndarray, " quantile"]:
    values = np.concatenate([summary.values for summary in summaries])
    order = np.argsort(values)
    weights = np.concatenate([summary.counts / summary.counts.sum() for summary in summaries])
    cumulative = np.cumsum(weights[order])
    wanted = np.array(QUANTILES) * cumulative[-1]
    rounding = WEIGHT_ROUNDING * cumulative[-1]
    last = values.size - 1
    from_below = np.minimum(np.searchsorted(cumulative, wanted - rounding), last)
    from_above = np.minimum(np.searchsorted(cumulative, wanted + rounding), last)
    pair = values[order[np.stack([from_below, from_above])]]
    quantiles: Float64[np.ndarray, " quantile"] = pair.mean(axis=0, dtype=np.float64)
    return quantiles


def merge_channels(
    of_cases: Sequence[Sequence[AnySummary]], channel_names: Sequence[str]
) -> tuple[ChannelFingerprint, ...]:
    """Merges the foreground intensities of all cases for each channel.

    Args:
        of_cases: Summaries of each case, one per channel; none for a case without foreground.
        channel_names: Names of the channels.
    """
    return tuple(
        ChannelFingerprint(name=name, foreground=_merge(partial(_iterate_channel, of_cases, index)))
        for index, name in enumerate(channel_names)
    )


def _iterate_channel(of_cases: Sequence[Sequence[AnySummary]], index: int) -> Iterator[AnySummary]:
    return (summaries[index] for summaries in of_cases if summaries)


def select_mixture_quantiles(iterate: Callable[[], Iterator[AnySummary]]) -> Float64[np.ndarray, " quantile"]:
    """Computes the same quantiles with one summary in memory at a time.

    The weights are added up by the upper 16 bits of the values, then, where the quantiles lie, by their lower 16 bits,
    which leaves single values.
    """
    coarse = np.zeros(HALF_VALUES)
    for numbers, weights in _number_values(iterate()):
        coarse += np.bincount(numbers >> HALF_BITS, weights, HALF_VALUES)
    cumulative = np.cumsum(coarse)
    quantiles, rounding = np.array(QUANTILES), WEIGHT_ROUNDING
    targets = (np.concatenate([quantiles - rounding, quantiles + rounding]) * cumulative[-1]).tolist()
    places = [_find_place(cumulative, target) for target in targets]
    fine = {place: np.zeros(HALF_VALUES) for place in places}
    for numbers, weights in _number_values(iterate()):
        upper = numbers >> HALF_BITS
        for place, added in fine.items():
            inside = upper == place
            added += np.bincount(numbers[inside] & (HALF_VALUES - 1), weights[inside], HALF_VALUES)
    found = [
        place * HALF_VALUES + _find_place(cumulative[place] - coarse[place] + np.cumsum(fine[place]), target)
        for place, target in zip(places, targets, strict=True)
    ]
    pair = _restore_values(np.array(found, np.uint32)).reshape(2, -1)
    mean: Float64[np.ndarray, " quantile"] = pair.mean(axis=0, dtype=np.float64)
    return mean


def _find_place(cumulative: Float64[np.ndarray, " place"], target: float) -> int:
    """Finds the first place at which a cumulative sum reaches a target, or the last one at which it rises."""
    last = int(np.searchsorted(cumulative, cumulative[-1]))
    return min(int(np.searchsorted(cumulative, target)), last)


def _number_values(
    summaries: Iterable[AnySummary],
) -> Iterator[tuple[UInt32[np.ndarray, " value"], Float64[np.ndarray, " value"]]]:
    """Yields the values of each summary as integers that are ordered like them, and their weights."""
    for summary in summaries:
        loaded = summary.load()
        bits = (loaded.values + np.float32(0)).view(np.uint32)  # turns -0 into 0
        yield np.where(bits >= SIGN_BIT, ~bits, bits | SIGN_BIT), loaded.counts / loaded.counts.sum()


def _restore_values(numbers: UInt32[np.ndarray, " value"]) -> Float32[np.ndarray, " value"]:
    values: Float32[np.ndarray, " value"] = np.where(numbers >= SIGN_BIT, numbers ^ SIGN_BIT, ~numbers).view(np.float32)
    return values
